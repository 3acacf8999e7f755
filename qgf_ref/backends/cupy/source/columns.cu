// A dense block's gradients in bias, γ and β: sums over the rows, each in one order.

constexpr int COLUMNS_TOGETHER = 32;

// One block takes 32 columns of a member, blockDim.y rows at once. y_bar, x_bar: the cotangents
// after and before LayerNorm and activation. Outputs (members, columns); scale_bar and offset_bar
// only with LayerNorm.
extern "C" __global__ void block_columns(Block b, const Real* z, const Real* stats,
                                         const Real* y_bar, const Real* x_bar, Real* bias_bar,
                                         Real* scale_bar, Real* offset_bar) {
  Real* sums = reinterpret_cast<Real*>(shared_memory);  // (3, blockDim.y, 32)
  const int e = blockIdx.y, lanes = blockDim.y;
  const Index j = Index(blockIdx.x) * COLUMNS_TOGETHER + threadIdx.x;
  const Layer layer = layer_of(b, e);
  Real bias_sum = 0, scale_sum = 0, offset_sum = 0;
  if (j < b.columns) {
    const Real bias = layer.bias ? layer.bias[j] : Real(0);
    const Real scale = b.norm ? layer.scale[j] : Real(1), offset = b.norm ? layer.offset[j] : Real(0);
    for (Index r = threadIdx.y; r < b.rows; r += lanes) {
      const Index at = e * b.capacity + r, i = at * b.stride + j;
      bias_sum += x_bar[i];
      if (b.norm) {
        const Moments m = kept(stats, at);
        const bool last = layer.norm == NORM_AFTER;
        const Real x = z[i] + bias;
        const Real x_hat = ((last ? curve(layer.activation, x).value : x) - m.mean) * m.rstd;
        const Real slope = curve(layer.activation, x_hat * scale + offset).slope;
        const Real h_bar = last ? y_bar[i] : y_bar[i] * slope;
        scale_sum += h_bar * x_hat;
        offset_sum += h_bar;
      }
    }
  }
  const int plane = lanes * COLUMNS_TOGETHER;
  const int own = threadIdx.y * COLUMNS_TOGETHER + threadIdx.x;
  sums[own] = bias_sum;
  sums[plane + own] = scale_sum;
  sums[2 * plane + own] = offset_sum;
  __syncthreads();
  if (threadIdx.y > 0 || j >= b.columns) return;
  for (int k = 0; k < 3; ++k) {
    if (k > 0 && !b.norm) break;
    Real total = 0;
    for (int y = 0; y < lanes; ++y) total += sums[k * plane + y * COLUMNS_TOGETHER + threadIdx.x];
    Real* out = k == 0 ? bias_bar : k == 1 ? scale_bar : offset_bar;
    out[e * b.columns + j] = total;
  }
}
