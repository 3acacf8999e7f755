// C = A·W for the first counts[e] rows of each member: cuBLAS cannot be told a number of rows that
// only the device knows, so that rows without a cotangent would be multiplied, too.
//
// A block computes a tile of TILE × TILE, a thread MICRO × MICRO of it in four parts of PACK × PACK;
// of both factors the next DEPTH columns or rows are on their way while these are multiplied.

constexpr int MICRO = 2 * PACK;
constexpr int TILE = 16 * MICRO;
constexpr int DEPTH = 8;
constexpr int TILE_ROW = TILE + PACK;  // of shared memory: with a bank's shift from row to row
constexpr int TILE_THREADS = 256;      // = TILE·DEPTH/PACK: each loads one pack of each factor

// A (members, capacity, stride), C (members, capacity, out_stride), W (members, inner, columns_stride),
// strides multiples of PACK. add: C += A·W.
extern "C" __global__ void __launch_bounds__(TILE_THREADS)
    packed_product(const Real* A, const Real* W, Real* C, const int* counts, Index rows,
                   Index capacity, Index inner, Index columns, Index stride, Index columns_stride,
                   Index out_stride, Index add) {
  Real* tiles = reinterpret_cast<Real*>(shared_memory);  // (2 stages, 2 factors, DEPTH, TILE_ROW)
  const int e = blockIdx.z;
  const Index count = counts ? Index(counts[e]) : rows;
  const Index first_row = Index(blockIdx.y) * TILE, first_column = Index(blockIdx.x) * TILE;
  if (first_row >= count) return;
  const int thread = threadIdx.x, tx = thread % 16, ty = thread / 16;
  // this thread's packs: of A along its row, of W along its row
  constexpr int A_PACKS = DEPTH / PACK, W_PACKS = TILE / PACK;
  const int a_row = thread / A_PACKS, a_depth = thread % A_PACKS * PACK;
  const int w_depth = thread / W_PACKS, w_column = thread % W_PACKS * PACK;
  const bool a_there = first_row + a_row < count, w_there = first_column + w_column < columns_stride;
  const Real* a_from = A + (e * capacity + first_row + a_row) * stride;
  const Real* w_from = W + e * inner * columns_stride + first_column + w_column;
  Pack a, w;
  Real sums[MICRO][MICRO];
#pragma unroll
  for (int i = 0; i < MICRO; ++i)
#pragma unroll
    for (int j = 0; j < MICRO; ++j) sums[i][j] = 0;

  for (Index k = -DEPTH, stage = 0; k < inner; k += DEPTH, stage = 1 - stage) {
    const Index next = k + DEPTH;
    if (next < inner) {
#pragma unroll
      for (int i = 0; i < PACK; ++i) a.v[i] = w.v[i] = 0;
      if (a_there && next + a_depth < inner) a = load(a_from, int(next) + a_depth, int(inner), true);
      if (w_there && next + w_depth < inner)
        w = *reinterpret_cast<const Pack*>(w_from + (next + w_depth) * columns_stride);
    }
    if (k >= 0) {
      const Real* a_tile = tiles + (1 - stage) * 2 * DEPTH * TILE_ROW;
      const Real* w_tile = a_tile + DEPTH * TILE_ROW;
#pragma unroll
      for (int d = 0; d < DEPTH; ++d) {
        Pack u[2], v[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          u[half] = *reinterpret_cast<const Pack*>(a_tile + d * TILE_ROW + half * TILE / 2 + ty * PACK);
          v[half] = *reinterpret_cast<const Pack*>(w_tile + d * TILE_ROW + half * TILE / 2 + tx * PACK);
        }
#pragma unroll
        for (int i = 0; i < MICRO; ++i)
#pragma unroll
          for (int j = 0; j < MICRO; ++j)
            sums[i][j] += u[i / PACK].v[i % PACK] * v[j / PACK].v[j % PACK];
      }
    }
    if (next < inner) {
      Real* a_tile = tiles + stage * 2 * DEPTH * TILE_ROW;
#pragma unroll
      for (int i = 0; i < PACK; ++i) a_tile[(a_depth + i) * TILE_ROW + a_row] = a.v[i];
      *reinterpret_cast<Pack*>(a_tile + (DEPTH + w_depth) * TILE_ROW + w_column) = w;
    }
    // what is written above is multiplied in the next turn, and written over in the one after it
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < MICRO; ++i) {
    const Index r = first_row + i / PACK * (TILE / 2) + ty * PACK + i % PACK;
    if (r >= count) continue;
    Real* out = C + (e * capacity + r) * out_stride;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const Index j = first_column + half * TILE / 2 + tx * PACK;
      Pack p;
#pragma unroll
      for (int q = 0; q < PACK; ++q) p.v[q] = sums[i][half * PACK + q];
      if (j >= columns) continue;
      if (add) {
        const Pack before = load(out, int(j), int(columns), true);
#pragma unroll
        for (int q = 0; q < PACK; ++q) p.v[q] += before.v[q];
      }
      store(out, int(j), int(columns), true, p);
    }
  }
}
