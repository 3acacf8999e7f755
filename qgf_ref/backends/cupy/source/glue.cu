// What a program does between its networks, on the values of one row: a warp's work. In NumPy:
// qgf_ref.backends.program.executor.

// Registers as qgf_ref.backends.program.registers gives them: ACTION (rows, D), MEMBERS (E, rows),
// SCALAR (rows).
struct Values {
  Real* base;
  const Index *offsets, *kinds;
  Index rows;
  int D, E;
};

__device__ inline int numbers_in(const Values& v, Index reg) {
  const Index kind = v.kinds[reg];
  return kind == KIND_ACTION ? v.D : kind == KIND_MEMBERS ? v.E : 1;
}

// Number i of a row of a register.
__device__ inline Real& at(const Values& v, Index reg, Index row, int i) {
  const Index within = v.kinds[reg] == KIND_ACTION ? row * v.D + i : i * v.rows + row;
  return v.base[v.offsets[reg] + within];
}

// The minimum (ties share the derivative equally) or the mean of the members, and their shares.
__device__ inline void reduce_members(const Values& v, const Index* code, Index row, bool mean) {
  Real total = at(v, code[IN_0], row, 0), lowest = total;
  for (int e = 1; e < v.E; ++e) {
    const Real q = at(v, code[IN_0], row, e);
    total += q;
    lowest = q < lowest || q != q ? q : lowest;  // a NaN stays, and is then every member's share
  }
  int ties = 0;
  for (int e = 0; e < v.E; ++e) ties += at(v, code[IN_0], row, e) == lowest;
  at(v, code[OUT_0], row, 0) = mean ? total / v.E : lowest;
  for (int e = 0; e < v.E; ++e) {
    const bool attains = at(v, code[IN_0], row, e) == lowest;
    const Real share = Real(attains) / Real(ties);
    at(v, code[OUT_1], row, e) = mean ? 1 / Real(v.E) : share;
  }
}

// Of the numbers' second half, that whose partner in the first is nearest by ratio.
__device__ inline Real nearest(Real wanted, const double* numbers, int half) {
  double best = 0;
  int chosen = -1;
  for (int i = 0; i < half; ++i) {
    double apart = numbers[i] / double(wanted);
    apart = apart > 1 ? apart : 1 / apart;
    if (chosen < 0 || apart < best) {
      best = apart;
      chosen = i;
    }
  }
  return Real(numbers[half + chosen]);
}

// One number of an operation that takes each alone.
__device__ inline Real single(const Values& v, const Index* code, Index row, int i, Real number) {
  const Real x = code[IN_0] < 0 ? Real(0) : at(v, code[IN_0], row, i);
  switch (code[OP]) {
    case OP_AXPY: return at(v, code[IN_1], row, i) + number * x;
    case OP_AXPY_ROW: return at(v, code[IN_1], row, i) + at(v, code[IN_2], row, 0) * x;
    case OP_SCALE: return number * x;
    case OP_SCALE_ROW: return at(v, code[IN_1], row, 0) * x;
    case OP_DIVIDE: {
      const Real s = at(v, code[IN_1], row, 0);
      return s == 0 ? at(v, code[IN_2], row, i) : x / s;
    }
    case OP_RATIO: {
      const Real y = at(v, code[IN_1], row, i);
      return x <= 0 || y <= 0 ? Real(0) : x / y;
    }
    case OP_MULTIPLY: return x * at(v, code[IN_1], row, i);
    case OP_WHERE_POSITIVE: return at(v, code[IN_1], row, i) > 0 ? x : Real(0);
    case OP_PLUS: return x + number;
    case OP_AT_LEAST: return x < number ? number : x;
    case OP_ROOT: return sqrt(x);
    case OP_SIGMOID: return sigmoid(x);
    default: return number;  // FILL
  }
}

// An instruction that asks no network.
__device__ inline void between(const Values& v, const Index* code, const double* numbers, Index row,
                               int lane) {
  const Index op = code[OP];
  const Real number = code[COUNT] > 0 ? Real(numbers[code[NUMBER]]) : Real(0);
  const int count = numbers_in(v, code[OUT_0]);
  if (op == OP_ROW_DOT) {
    Real dot = 0;
    for (int i = lane; i < v.D; i += WARP) dot += at(v, code[IN_0], row, i) * at(v, code[IN_1], row, i);
    dot = warp_sum(dot);
    if (lane == 0) at(v, code[OUT_0], row, 0) = dot;
  } else if (op == OP_REDUCE_MIN || op == OP_REDUCE_MEAN) {
    if (lane == 0) reduce_members(v, code, row, op == OP_REDUCE_MEAN);
  } else if (op == OP_NEAREST) {
    if (lane == 0)
      at(v, code[OUT_0], row, 0) =
          nearest(at(v, code[IN_0], row, 0), numbers + code[NUMBER], int(code[COUNT] / 2));
  } else if (op == OP_KEEP) {
    for (int i = lane; i < count; i += WARP) at(v, code[OUT_0], row, i) = Real(0);
    __syncwarp();
    for (int i = lane; i < code[COUNT]; i += WARP) {
      const int column = int(numbers[code[NUMBER] + i]);
      at(v, code[OUT_0], row, column) = at(v, code[IN_0], row, column);
    }
  } else if (op == OP_CLIP) {
    for (int i = lane; i < count; i += WARP) {
      const Real x = at(v, code[IN_0], row, i), size = x < 0 ? -x : x;
      at(v, code[OUT_1], row, i) = size < number ? Real(1) : size > number ? Real(0) : Real(0.5);
      at(v, code[OUT_0], row, i) = x > number ? number : x < -number ? -number : x;
    }
  } else if (op == OP_SHARE) {  // of one number and all members'
    for (int e = lane; e < count; e += WARP)
      at(v, code[OUT_0], row, e) = at(v, code[IN_0], row, 0) * at(v, code[IN_1], row, e);
  } else {
    for (int i = lane; i < count; i += WARP)
      at(v, code[OUT_0], row, i) = single(v, code, row, i, number);
  }
}

// Instructions first … last − 1 on one row; of those that ask a network only the result is looked
// at: *status becomes 1 when one that must be finite is not.
__device__ inline void run_between(const Values& v, const Index* table, const double* numbers,
                                   Index first, Index last, Index row, int lane, int* status) {
  for (Index n = first; n < last; ++n) {
    const Index* code = table + n * TABLE_COLUMNS;
    if (code[OP] > OP_HVP) between(v, code, numbers, row, lane);
    __syncwarp();
    if (code[OP] > LAST_CHECKED) continue;
    const int count = numbers_in(v, code[OUT_0]);
    for (int i = lane; i < count; i += WARP)
      if (!is_finite(at(v, code[OUT_0], row, i))) *status = 1;
  }
}

extern "C" __global__ void glue(Values v, const Index* table, const double* numbers, Index first,
                                Index last, int* status) {
  const Index row = (Index(blockIdx.x) * blockDim.x + threadIdx.x) / WARP;
  if (row < v.rows)
    run_between(v, table, numbers, first, last, row, threadIdx.x % WARP, status);
}
