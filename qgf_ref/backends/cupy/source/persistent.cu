// The interpreter for few rows: one cooperative launch runs a whole program.
//
// Every block does all that is not a product for itself, in memory of its own; of each product it
// computes some columns, a warp one at a time, and all blocks meet once after it. What a product
// wrote is read by every block until the next meeting, and so two places take turns: the number of
// meetings so far says which one is written.

constexpr int ROWS_TOGETHER = 4;
constexpr int PERSISTENT_THREADS = sizeof(Real) == 4 ? 384 : 256;  // at most: registers decide

// All that a launch is told. Offsets are in numbers (Real) from the array beside them.
struct Call {
  const Index *table, *kinds, *offsets, *results, *layers, *networks;
  const double *numbers, *eps, *frequencies;
  const Real *flat, *times, *obs, *noise, *weight;
  Real *scratch, *own, *answers;  // own: of all blocks, or null for a place in shared memory
  int* status;
  unsigned* arrived;  // 0 before the launch
  Index instructions, result_count, rows, draws, D, E, obs_dim, half, precise;
  Index members;  // of the network that has most
  Index pre_kernel, pre_columns, time_stride;  // in flat; columns of all first layers; of times
  Index own_size, hidden_stride, high;         // high: 2 where a Hessian product is asked for
  Index pre, z, z_size, edge, edge_size, tangents;  // in scratch
  Index sums, embedding, ints, own_shared;          // in shared memory; hidden values are at 0
  double time_scale;
};

// A row's team where it is known only here whether that is a warp or the block.
struct Team {
  int lane, size;
  Real* room;  // shared: a number for each warp
  __device__ Real sum(Real x) const {
    x = warp_sum(x);
    if (size == WARP) return x;
    if (lane % WARP == 0) room[lane / WARP] = x;
    __syncthreads();
    Real total = 0;
    for (int w = 0; w < size / WARP; ++w) total += room[w];
    __syncthreads();  // before the next sum writes there
    return total;
  }
};

// What a block knows, in its shared memory before all else.
struct Machine {
  Call c;
  Real *hidden, *own, *sums, *embedding;
  int *counts, *chosen;  // (members), (members, rows)
  unsigned met;
};

constexpr int MACHINE_BYTES = 512;
static_assert(sizeof(Machine) <= MACHINE_BYTES, "the machine's place in shared memory");

__device__ inline void meet(Machine& m) {
  __syncthreads();
  if (threadIdx.x == 0) {
    m.met += 1;
    __threadfence();
    atomicAdd(m.c.arrived, 1u);
    while (*reinterpret_cast<volatile unsigned*>(m.c.arrived) < m.met * gridDim.x) {
      SPINNING;
    }
    __threadfence();
  }
  __syncthreads();
}

__device__ inline Index padded(Index n) { return (n + PACK - 1) / PACK * PACK; }
__device__ inline Real* z_place(const Machine& m) {
  return m.c.scratch + m.c.z + (m.met & 1) * m.c.z_size;
}
__device__ inline Real* edge_place(const Machine& m) {
  return m.c.scratch + m.c.edge + (m.met & 1) * m.c.edge_size;
}

// A network: row e·depth + l of its part of the layers' table is member e's layer l.
struct Net {
  const Index *layers, *about;
  int number, depth, members, hidden;
  __device__ const Index* layer(int e, int l) const {
    return layers + (e * depth + l) * LAYER_COLUMNS;
  }
};

__device__ inline Net net_of(const Call& c, Index number) {
  Net n;
  n.about = c.networks + number * NETWORK_COLUMNS;
  n.layers = c.layers + n.about[NET_FIRST_LAYER] * LAYER_COLUMNS;
  n.number = int(number);
  n.depth = int(n.about[NET_DEPTH]);
  n.members = int(n.about[NET_MEMBERS]);
  n.hidden = n.depth - 1;
  return n;
}

__device__ inline Layer layer_of(const Call& c, const Net& net, int e, int l) {
  const Index* row = net.layer(e, l);
  Layer layer;
  layer.columns = int(row[LAYER_OUT]);
  layer.aligned = true;
  layer.norm = int(row[LAYER_NORM]);
  layer.fast = net.about[NET_FAST] != 0;
  layer.activation = int(net.about[NET_ACTIVATION]);
  layer.eps = Real(c.eps[net.number]);
  layer.bias = c.flat + row[LAYER_BIAS];
  layer.scale = c.flat + row[LAYER_SCALE];
  layer.offset = c.flat + row[LAYER_OFFSET];
  return layer;
}

// Where in what a forward saved layer l begins.
__device__ inline Index saved_at(const Call& c, const Net& net, int l) {
  Index place = 0;
  for (int k = 0; k < l; ++k) place += net.members * c.rows * padded(net.layer(0, k)[LAYER_OUT]);
  return place;
}

// One product of a layer. x (rows, x_row) of each member, in shared memory or in inputs; weights: the
// column of the layer's table that says where the rows of the transposed matrix are.
struct Product {
  const Real* x;
  Index x_row, x_member;
  int inner, columns, weights, add_bias;
  Real* out;
  Index out_row, out_member;
  int times;            // rows of each member: times·counts[e]
  bool first;           // of a forward: observations' and time's share are added
  Index time, time_at;  // a constant's number, or where in own the rows' times are, or −1
  // what a residual block carries past the product, added to it: an array like out, or if that is
  // null, of the chosen rows their numbers (members, rows) times the member's last layer; or null
  const Real *carried, *carried_numbers;
};

// What observations and time add to column j of row r in the first layer.
__device__ inline Real share(const Machine& m, const Index* row, const Product& p, int r, int j) {
  const Call& c = m.c;
  Real sum = c.scratch[c.pre + r / c.draws * c.pre_columns + row[LAYER_PRE] + j];
  if (p.time >= 0) return sum + c.times[p.time * c.time_stride + j];
  if (p.time_at < 0) return sum;
  const Real* timed = c.flat + row[LAYER_TIMED] + j;
  for (int k = 0; k < 2 * c.half; ++k)
    sum += m.embedding[r * 2 * c.half + k] * timed[k * padded(row[LAYER_OUT])];
  return sum;
}

// The cotangent of a network of numbers' last hidden value: of a member's row i that takes part, column
// j. Rows beyond carry derivatives, and of those it is 0.
__device__ inline Real seeded(const Machine& m, const Net& net, const Product& p, int e, int i, int j) {
  if (i >= m.counts[e]) return 0;
  const Real* head = m.c.flat + net.layer(e, net.depth - 1)[LAYER_KERNEL];
  return p.carried_numbers[e * m.c.rows + m.chosen[e * m.c.rows + i]] * head[j];
}

// Rows first … of one column: the warp's lanes share the sum. w: a row of the transposed matrix.
template <bool aligned>
__device__ inline void dots(const Machine& m, const Net& net, const Product& p, const Index* row,
                            const Real* w, int e, int j, int first, int count, int lane) {
  Real sums[ROWS_TOGETHER];
#pragma unroll
  for (int i = 0; i < ROWS_TOGETHER; ++i) sums[i] = 0;
  const Real* x = p.x + e * p.x_member + first * p.x_row;
#pragma unroll 2
  for (int k = lane * PACK; k < p.inner; k += WARP * PACK) {
    const Pack a = load(w, k, p.inner, true);
#pragma unroll
    for (int i = 0; i < ROWS_TOGETHER; ++i) {
      if (i < count) {
        const Pack b = load(x + i * p.x_row, k, p.inner, aligned);
#pragma unroll
        for (int q = 0; q < PACK; ++q) sums[i] += a.v[q] * b.v[q];
      }
    }
  }
#pragma unroll
  for (int i = 0; i < ROWS_TOGETHER; ++i) {
    if (i >= count) continue;
    Real total = warp_sum(sums[i]);
    if (lane > 0) continue;
    if (p.add_bias) total += m.c.flat[row[LAYER_BIAS] + j];
    if (p.first) total += share(m, row, p, first + i, j);
    const Index at = e * p.out_member + (first + i) * p.out_row + j;
    if (p.carried) total += p.carried[at];
    if (p.carried_numbers) total += seeded(m, net, p, e, first + i, j);
    p.out[at] = total;
  }
}

__device__ inline void multiply(const Machine& m, const Net& net, int l, const Product& p) {
  const int lane = threadIdx.x % WARP;
  const int warps = gridDim.x * (blockDim.x / WARP);
  for (int i = (blockIdx.x * blockDim.x + threadIdx.x) / WARP; i < net.members * p.columns; i += warps) {
    const int e = i / p.columns, j = i - e * p.columns, rows = p.times * m.counts[e];
    const Index* row = net.layer(e, l);
    const Real* w = m.c.flat + row[p.weights] + j * padded(p.inner);
    for (int r = 0; r < rows; r += ROWS_TOGETHER)
      dots<true>(m, net, p, row, w, e, j, r, min(rows - r, ROWS_TOGETHER), lane);
  }
}

// The product with a layer's matrix, or with its transpose, of the hidden values.
__device__ inline Product product(const Machine& m, const Net& net, int l, bool transposed) {
  const Index* row = net.layer(0, l);
  Product p;
  p.x = m.hidden;
  p.x_row = m.c.hidden_stride;
  p.x_member = m.c.high * m.c.rows * m.c.hidden_stride;
  p.inner = int(transposed ? row[LAYER_OUT] : row[LAYER_IN]);
  p.columns = int(transposed ? row[LAYER_IN] : row[LAYER_OUT]);
  p.weights = transposed ? LAYER_KERNEL : LAYER_TRANSPOSE;
  p.add_bias = 0;
  p.times = 1;
  p.first = false;
  p.time = p.time_at = -1;
  p.carried = p.carried_numbers = nullptr;
  p.out = z_place(m);
  p.out_row = padded(p.columns);
  p.out_member = m.c.high * m.c.rows * p.out_row;
  return p;
}

// … whose result is an action's: to the edge, (members, rows, D).
__device__ inline Product to_edge(const Machine& m, Product p) {
  p.out = edge_place(m);
  p.out_row = m.c.D;
  p.out_member = m.c.rows * m.c.D;
  return p;
}

// work(team, e, i) for the first counts[e] rows of each member: by warps, or of few rows by the block.
template <class Work>
__device__ inline void each_row(const Machine& m, int members, Work work) {
  __syncthreads();
  int all = 0;
  for (int e = 0; e < members; ++e) all += m.counts[e];
  const int warps = blockDim.x / WARP, thread = threadIdx.x;
  const bool together = 2 * all <= warps;
  const Team team{together ? thread : thread % WARP, together ? int(blockDim.x) : WARP, m.sums};
  int n = 0;
  for (int e = 0; e < members; ++e)
    for (int i = 0; i < m.counts[e]; ++i, ++n)
      if (together || n % warps == thread / WARP) work(team, e, i);
  __syncthreads();
}

// Which rows take part: those whose cotangent (members, rows) is not 0; with null, all.
__device__ inline void choose(const Machine& m, int members, const Real* bar) {
  __syncthreads();
  for (int e = threadIdx.x; e < members; e += blockDim.x) {
    int count = 0;
    for (int r = 0; r < m.c.rows; ++r)
      if (!bar || bar[e * m.c.rows + r] != Real(0)) m.chosen[e * m.c.rows + count++] = r;
    m.counts[e] = count;
  }
  __syncthreads();
}

// hidden[e][i] = the chosen rows of an action in own.
__device__ inline void take_rows(const Machine& m, int members, const Real* action) {
  const Call& c = m.c;
  for (int i = threadIdx.x; i < members * c.rows * c.D; i += blockDim.x) {
    const int e = int(i / (c.rows * c.D)), k = int(i / c.D % c.rows), j = int(i % c.D);
    if (k < m.counts[e])
      m.hidden[(e * c.high * c.rows + k) * c.hidden_stride + j] =
          action[m.chosen[e * c.rows + k] * c.D + j];
  }
  __syncthreads();
}

// The action's rows in own are the members' rows at the edge, added up; edge: where they were written.
__device__ inline void add_up(const Machine& m, int members, const Real* edge, Real* out) {
  const Call& c = m.c;
  for (int i = threadIdx.x; i < c.rows * c.D; i += blockDim.x) out[i] = 0;
  for (int e = 0; e < members; ++e) {
    __syncthreads();
    for (int i = threadIdx.x; i < m.counts[e] * c.D; i += blockDim.x)
      out[m.chosen[e * c.rows + i / c.D] * c.D + i % c.D] += edge[e * c.rows * c.D + i];
  }
  __syncthreads();
}

__device__ inline void embed(const Machine& m, const Real* times) {
  const Call& c = m.c;
  for (int i = threadIdx.x; i < c.rows * c.half; i += blockDim.x) {
    const int r = int(i / c.half), k = int(i % c.half);
    double angle = double(times[r]) * (c.time_scale * c.frequencies[k]);
    if (!c.precise)
      angle = double(
          __fmul_rn(__fmul_rn(float(times[r]), float(c.time_scale)), float(c.frequencies[k])));
    const Turn t = turn(angle);
    m.embedding[r * 2 * c.half + k] = Real(t.cosine);
    m.embedding[r * 2 * c.half + c.half + k] = Real(t.sine);
  }
}

// Member e's row i of what a forward saved of a layer of that width.
__device__ inline const Real* saved_row(const Machine& m, const Real* saved, const Layer& layer,
                                        int e, int i) {
  const Index r = m.chosen[e * m.c.rows + i];
  return saved + (e * m.c.rows + r) * padded(layer.columns);
}

__device__ inline Real* hidden_row(const Machine& m, int e, int i) {
  return m.hidden + (e * m.c.high * m.c.rows + i) * m.c.hidden_stride;
}

// From the action on: a forward, a jvp, or the tangents of a Hessian product, which are kept.
__device__ inline void ahead(Machine& m, const Index* code) {
  const Call& c = m.c;
  const Net net = net_of(c, code[NETWORK]);
  const bool forward = code[OP] == OP_FORWARD, bent = code[OP] == OP_HVP;
  const bool scalar = net.about[NET_SCALAR] != 0;
  const Index saved_reg = code[forward ? OUT_1 : bent ? IN_2 : IN_1];
  const Index time_at = forward && code[IN_1] >= 0 ? c.offsets[code[IN_1]] : -1;
  Real* out = m.own + c.offsets[code[OUT_0]];
  choose(m, net.members, bent ? m.own + c.offsets[code[IN_1]] : nullptr);
  take_rows(m, net.members, m.own + c.offsets[code[IN_0]]);
  if (time_at >= 0) embed(m, m.own + time_at);
  __syncthreads();
  const int layers = scalar ? net.hidden : net.depth;  // a last layer of one number is no product
  for (int l = 0; l < layers; ++l) {
    Real* saved = saved_reg < 0 ? nullptr : c.scratch + c.offsets[saved_reg] + saved_at(c, net, l);
    Product p = product(m, net, l, false);
    p.first = forward && l == 0;
    p.time = code[TIME];
    p.time_at = time_at;
    if (l == net.hidden) {
      p = to_edge(m, p);
      p.add_bias = forward;
    } else if (bent || (forward && saved)) {
      p.out = bent ? c.scratch + c.tangents + saved_at(c, net, l) : saved;
      p.out_member = c.rows * p.out_row;
    }
    multiply(m, net, l, p);
    meet(m);
    if (l == net.hidden) add_up(m, 1, p.out, out);
    if (l == net.hidden || (bent && l == net.hidden - 1)) return;
    const bool end = scalar && l == net.hidden - 1;
    const Index* last = net.layer(0, net.depth - 1);
    each_row(m, net.members, [&](const Team& team, int e, int i) {
      const Layer layer = layer_of(c, net, e, l);
      Real* z = p.out + e * p.out_member + i * p.out_row;
      Real* hidden = hidden_row(m, e, i);
      const Real* carry = net.layer(e, l)[LAYER_RESIDUAL] ? hidden : nullptr;
      if (forward) {
        const Index* head = last + e * net.depth * LAYER_COLUMNS;
        const Real dot =
            row_forward(layer, z, moments(layer, z, team), carry, end ? nullptr : hidden,
                        end ? c.flat + head[LAYER_KERNEL] : nullptr, team);
        if (!end) return;
        const Real total = team.sum(dot);
        if (team.lane == 0) out[e * c.rows + i] = total + c.flat[head[LAYER_BIAS]];
      } else {
        const Real* before = saved_row(m, saved, layer, e, i);
        row_tangent(layer, before, moments(layer, before, team), z, carry, hidden, team);
      }
    });
  }
}

// Back to the action: a vjp, or a Hessian product after `ahead`. Of the latter, rows 0 … n − 1 of a
// member carry cotangents, n … 2n − 1 their derivatives, n = counts[e].
__device__ inline void back(Machine& m, const Index* code) {
  const Call& c = m.c;
  const Net net = net_of(c, code[NETWORK]);
  const bool scalar = net.about[NET_SCALAR] != 0, bent = code[OP] == OP_HVP;
  const Real* bar = m.own + c.offsets[code[bent ? IN_1 : IN_0]];
  const Real* source = nullptr;
  if (!bent) choose(m, net.members, scalar ? bar : nullptr);
  for (int l = scalar ? net.hidden - 1 : net.hidden; l >= 0; --l) {
    const Real* saved = c.scratch + c.offsets[code[bent ? IN_2 : IN_1]] + saved_at(c, net, l);
    const Real* tangents = c.scratch + c.tangents + saved_at(c, net, l);
    if (l == net.hidden) take_rows(m, net.members, bar);
    else each_row(m, net.members, [&](const Team& team, int e, int i) {
      const Layer layer = layer_of(c, net, e, l);
      const Index stride = padded(layer.columns), n = m.counts[e];
      const Real* z = saved_row(m, saved, layer, e, i);
      const Moments moments_ = moments(layer, z, team);
      const Real* before = source ? source + (e * c.high * c.rows + i) * stride
                                  : c.flat + net.layer(e, net.depth - 1)[LAYER_KERNEL];
      const Real factor = source ? Real(1) : bar[e * c.rows + m.chosen[e * c.rows + i]];
      // of the first layer the cotangents themselves are not asked for
      if (bent)
        row_bent(layer, z, moments_, tangents + (e * c.rows + i) * stride, before, factor,
                 source ? before + n * stride : nullptr, l > 0 ? hidden_row(m, e, i) : nullptr,
                 hidden_row(m, e, l > 0 ? int(n) + i : i), nullptr, team);
      else
        row_back(layer, z, moments_, before, factor, hidden_row(m, e, i), nullptr, team);
    });
    Product p = product(m, net, l, true);
    if (l == 0) p = to_edge(m, p);
    else if (bent) p.times = 2;
    // of a residual block the cotangent itself goes on beside the product: it lies where the product
    // before wrote it, in rows as wide, and stays there until the next meeting but one
    if (net.layer(0, l)[LAYER_RESIDUAL]) {
      p.carried = source;
      if (!source) p.carried_numbers = bar;
    }
    multiply(m, net, l, p);
    meet(m);
    source = p.out;
  }
  add_up(m, net.members, source, m.own + c.offsets[code[OUT_0]]);
}

// The observations' share of all first layers (rows/draws, pre_columns): every block some columns.
__device__ inline void observe(Machine& m) {
  const Call& c = m.c;
  const int lane = threadIdx.x % WARP, warps = gridDim.x * (blockDim.x / WARP);
  Product p;
  p.x = c.obs;
  p.x_row = c.obs_dim;
  p.x_member = 0;
  p.inner = int(c.obs_dim);
  p.add_bias = 0;
  p.first = false;
  p.carried = p.carried_numbers = nullptr;
  p.out = c.scratch + c.pre;
  p.out_row = c.pre_columns;
  p.out_member = 0;
  const int rows = int((c.rows + c.draws - 1) / c.draws);
  for (int j = (blockIdx.x * blockDim.x + threadIdx.x) / WARP; j < c.pre_columns; j += warps)
    for (int r = 0; r < rows; r += ROWS_TOGETHER)
      dots<false>(m, Net{}, p, nullptr, c.flat + c.pre_kernel + j * padded(c.obs_dim), 0, j, r,
                  min(rows - r, ROWS_TOGETHER), lane);
  meet(m);
}

// The results, one after another in the shapes of the loop: the first block's.
__device__ inline void answer(const Machine& m) {
  const Call& c = m.c;
  Real* out = c.answers;
  for (Index k = 0; k < c.result_count; ++k) {
    const Index reg = c.results[k], kind = c.kinds[reg];
    const Index size = c.rows * (kind == KIND_ACTION ? c.D : kind == KIND_MEMBERS ? c.E : 1);
    for (Index i = threadIdx.x; i < size; i += blockDim.x) out[i] = m.own[c.offsets[reg] + i];
    out += size;
  }
}

// The instructions between the networks, on the block's own values.
__device__ inline void glue_rows(const Machine& m, Index n) {
  const Call& c = m.c;
  const Values values{m.own, c.offsets, c.kinds, c.rows, int(c.D), int(c.E)};
  const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
  __syncthreads();
  for (Index row = warp; row < c.rows; row += blockDim.x / WARP)
    run_between(values, c.table, c.numbers, n, n + 1, row, lane, c.status);
  __syncthreads();
}

extern "C" __global__ void __launch_bounds__(PERSISTENT_THREADS, 1)
    run_program(const __grid_constant__ Call call) {
  Machine& m = *reinterpret_cast<Machine*>(shared_memory);
  if (threadIdx.x == 0) {
    Real* shared = reinterpret_cast<Real*>(shared_memory + MACHINE_BYTES);
    m.c = call;
    m.hidden = shared;
    m.own = call.own ? call.own + blockIdx.x * call.own_size : shared + call.own_shared;
    m.sums = shared + call.sums;
    m.embedding = shared + call.embedding;
    m.counts = reinterpret_cast<int*>(shared + call.ints);
    m.chosen = m.counts + call.members;
    m.met = 0;
  }
  __syncthreads();
  const Call& c = m.c;
  for (Index i = threadIdx.x; i < c.rows * c.D; i += blockDim.x)
    m.own[c.offsets[VALUE_NOISE] + i] = c.noise[i];
  for (Index i = threadIdx.x; i < c.rows; i += blockDim.x)
    m.own[c.offsets[VALUE_WEIGHT] + i] = c.weight[i];
  observe(m);
  for (Index n = 0; n < c.instructions; ++n) {
    const Index* code = c.table + n * TABLE_COLUMNS;
    if (code[OP] <= OP_HVP && code[OP] != OP_VJP) ahead(m, code);
    if (code[OP] == OP_VJP || code[OP] == OP_HVP) back(m, code);
    glue_rows(m, n);
  }
  if (blockIdx.x == 0) answer(m);
}
