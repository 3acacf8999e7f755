// A dense block's epilogues on a batch: a warp a row, of every member of an ensemble.
//
// Arrays are (members, capacity, stride), of which `rows` rows and `columns` columns are meant;
// parameters (members, parameter_stride). counts and chosen, if not null, say for each member how
// many rows take part and which: what a product reads and writes is then packed to counts[e] rows.

struct Block {
  Index rows, capacity, columns, stride, parameter_stride, members;
  Index norm, fast, activation;
  double eps;
  const Real *bias, *scale, *offset;
};

// The layer of member e.
__device__ inline Layer layer_of(const Block& b, int e) {
  Layer layer;
  layer.columns = int(b.columns);
  layer.aligned = b.stride % PACK == 0 && b.parameter_stride % PACK == 0;
  layer.norm = int(b.norm);
  layer.fast = b.fast != 0;
  layer.activation = int(b.activation);
  layer.eps = Real(b.eps);
  const Index at = e * b.parameter_stride;
  layer.bias = b.bias ? b.bias + at : nullptr;
  layer.scale = b.scale ? b.scale + at : nullptr;
  layer.offset = b.offset ? b.offset + at : nullptr;
  return layer;
}

// Which row of which member a warp has, and whether there is one.
struct Place {
  bool there;
  int member;
  Index row;   // as the forward counts
  Index packed;  // as the product counts, the member's rows before it included
  Index at;    // the forward's, the member's rows before it included
};

__device__ inline Place place(const Block& b, const int* counts, const int* chosen) {
  const Index warp = (Index(blockIdx.x) * blockDim.x + threadIdx.x) / WARP;
  Place p;
  p.member = int(warp / b.rows);
  const Index i = warp - p.member * b.rows;
  p.there = p.member < b.members && i < (counts ? Index(counts[p.member]) : b.rows);
  if (!p.there) return p;
  p.row = chosen ? chosen[p.member * b.rows + i] : i;
  p.packed = p.member * b.capacity + i;
  p.at = p.member * b.capacity + p.row;
  return p;
}

// z → y. What observations and the time add to z comes first: shared (rows/draws, shared_stride),
// the member's columns from e·parameter_stride on; timed (members, parameter_stride). keep: the sum
// replaces z, for products. stats (members, capacity, 2): mean and rstd, or null. carry: a residual
// block's input, like y and maybe y itself, or null. y may be null. With head: out (members, rows) =
// ⟨y, head⟩ + head_bias (members, PACK), what a network of numbers gives.
extern "C" __global__ void block_forward(Block b, Real* z, Real* y, Real* stats, const Real* shared,
                                         Index shared_stride, Index draws, const Real* timed,
                                         Index keep, const Real* carry, const Real* head,
                                         const Real* head_bias, Real* out) {
  const Place p = place(b, nullptr, nullptr);
  if (!p.there) return;
  const WarpTeam team{int(threadIdx.x) % WARP};
  const Layer layer = layer_of(b, p.member);
  Real* row = z + p.at * b.stride;
  if (shared || timed) {
    Real* sum = keep || !y ? row : y + p.at * b.stride;
    for (int j = team.lane * PACK; j < layer.columns; j += WARP * PACK) {
      Pack x = load(row, j, layer.columns, layer.aligned);
      if (shared) {
        const Pack s = load(shared + (p.row / draws) * shared_stride + p.member * b.parameter_stride, j,
                            layer.columns, layer.aligned);
#pragma unroll
        for (int i = 0; i < PACK; ++i) x.v[i] += s.v[i];
      }
      if (timed) {
        const Pack t = load(timed + p.member * b.parameter_stride, j, layer.columns, layer.aligned);
#pragma unroll
        for (int i = 0; i < PACK; ++i) x.v[i] += t.v[i];
      }
      store(sum, j, layer.columns, layer.aligned, x);
    }
    row = sum;
  }
  const Moments m = moments(layer, row, team);
  if (stats && team.lane == 0) {
    stats[2 * p.at] = m.mean;
    stats[2 * p.at + 1] = m.rstd;
  }
  const Real* own_head = head ? head + p.member * b.parameter_stride : nullptr;
  const Real dot = row_forward(layer, row, m, carry ? carry + p.at * b.stride : nullptr,
                               y ? y + p.at * b.stride : nullptr, own_head, team);
  if (!head) return;
  const Real total = warp_sum(dot);
  if (team.lane == 0) out[p.member * b.rows + p.row] = total + head_bias[p.member * PACK];
}

__device__ inline Moments kept(const Real* stats, Index at) {
  return {stats[2 * at], stats[2 * at + 1]};
}

// x_dot (packed) → y_dot (packed), with carry (packed), a residual block's input's, or null.
extern "C" __global__ void block_tangent(Block b, const int* counts, const int* chosen,
                                         const Real* z, const Real* stats, const Real* x_dot,
                                         const Real* carry, Real* y_dot) {
  const Place p = place(b, counts, chosen);
  if (!p.there) return;
  const Index at = p.packed * b.stride;
  row_tangent(layer_of(b, p.member), z + p.at * b.stride, kept(stats, p.at), x_dot + at,
              carry ? carry + at : nullptr, y_dot + at, WarpTeam{int(threadIdx.x) % WARP});
}

// Where a cotangent comes from: the rows of a product (packed), or, of a network of numbers, the
// number of the row times the last layer's weights.
struct Seed {
  const Real* numbers;  // (members, rows), or null
  const Real* head;     // (members, parameter_stride)
};

// y_bar (packed) or seed → x_bar (packed); carried, if not null, becomes the cotangent that seed gives.
extern "C" __global__ void block_back(Block b, const int* counts, const int* chosen, const Real* z,
                                      const Real* stats, Seed seed, const Real* y_bar,
                                      Real* x_bar, Real* carried) {
  const Place p = place(b, counts, chosen);
  if (!p.there) return;
  const Index at = p.packed * b.stride;
  const Real* from = seed.numbers ? seed.head + p.member * b.parameter_stride : y_bar + at;
  const Real factor = seed.numbers ? seed.numbers[p.member * b.rows + p.row] : Real(1);
  row_back(layer_of(b, p.member), z + p.at * b.stride, kept(stats, p.at), from, factor, x_bar + at,
           carried ? carried + at : nullptr, WarpTeam{int(threadIdx.x) % WARP});
}

// y_bar and y_bar_dot, or seed and 0 → x_bar (may be null) and x_bar_dot, all packed; carried: as above.
extern "C" __global__ void block_bent(Block b, const int* counts, const int* chosen, const Real* z,
                                      const Real* stats, const Real* x_dot, Seed seed,
                                      const Real* y_bar, const Real* y_bar_dot, Real* x_bar,
                                      Real* x_bar_dot, Real* carried) {
  const Place p = place(b, counts, chosen);
  if (!p.there) return;
  const Index at = p.packed * b.stride;
  const bool seeded = seed.numbers != nullptr;
  row_bent(layer_of(b, p.member), z + p.at * b.stride, kept(stats, p.at), x_dot + at,
           seeded ? seed.head + p.member * b.parameter_stride : y_bar + at,
           seeded ? seed.numbers[p.member * b.rows + p.row] : Real(1),
           y_bar_dot ? y_bar_dot + at : nullptr, x_bar ? x_bar + at : nullptr, x_bar_dot + at,
           carried ? carried + at : nullptr, WarpTeam{int(threadIdx.x) % WARP});
}

// The rows of each member whose number is not 0: counts (members), before 0; chosen and position
// (members, rows), position −1 where the row does not take part. In which order the rows are packed
// may differ from call to call; no row's numbers depend on it.
extern "C" __global__ void choose_rows(const Real* numbers, Index rows, Index members, int* counts,
                                       int* chosen, int* position) {
  const Index first = Index(blockIdx.x) * blockDim.x;
  const int lane = threadIdx.x % WARP, e = blockIdx.y;
  const Index r = first + threadIdx.x;
  const bool takes_part = r < rows && numbers[e * rows + r] != Real(0);
  const unsigned all = __ballot_sync(ALL_LANES, takes_part);
  int base = 0;
  if (lane == 0 && all) base = atomicAdd(counts + e, __popc(all));
  base = __shfl_sync(ALL_LANES, base, 0);
  const int own = base + __popc(all & ((1u << lane) - 1));
  if (takes_part) chosen[e * rows + own] = int(r);
  if (r < rows) position[e * rows + r] = takes_part ? own : -1;
}

// out (rows, columns) = Σ_e part (members, capacity, stride) at the members' packed rows; position
// null: every row is where it was.
extern "C" __global__ void sum_members(const Real* part, Index rows, Index capacity, Index columns,
                                       Index stride, Index members, const int* position,
                                       Real* out) {
  const Index i = Index(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= rows * columns) return;
  const Index r = i / columns, j = i % columns;
  Real total = 0;
  for (int e = 0; e < members; ++e) {
    const Index at = position ? position[e * rows + r] : r;
    if (at >= 0) total += part[(e * capacity + at) * stride + j];
  }
  out[i] = total;
}

// out (members, capacity, stride): row i is the row chosen[e][i] of x (rows, columns); the tangents
// that a product starts with.
extern "C" __global__ void gather_rows(const Real* x, Index rows, Index capacity, Index columns,
                                       Index stride, Index members, const int* counts,
                                       const int* chosen, Real* out) {
  const Index i = Index(blockIdx.x) * blockDim.x + threadIdx.x;
  const Index e = i / (rows * columns), at = i % (rows * columns) / columns, j = i % columns;
  if (e >= members || at >= (counts ? Index(counts[e]) : rows)) return;
  const Index r = chosen ? Index(chosen[e * rows + at]) : at;
  out[(e * capacity + at) * stride + j] = x[r * columns + j];
}

// The embedding of each row's time (rows, 2·half): cosines first. precise: as in double precision,
// else every operation rounded to float, as the official code does.
extern "C" __global__ void embed_times(const Real* times, Index rows, Index half,
                                       const double* frequencies, double scale, Index precise,
                                       Real* out) {
  const Index i = Index(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= rows * half) return;
  const Index r = i / half, k = i % half;
  double angle;
  if (precise) {
    angle = double(times[r]) * (scale * frequencies[k]);
  } else {
    angle = double(__fmul_rn(__fmul_rn(float(times[r]), float(scale)), float(frequencies[k])));
  }
  const Turn t = turn(angle);
  out[r * 2 * half + k] = Real(t.cosine);
  out[r * 2 * half + half + k] = Real(t.sine);
}
