// What training does between networks; in NumPy: qgf_ref.ops.learning.

// One array of one or several parameter sets: `size` of all numbers, from `start` on. All else are addresses.
struct Leaf {
  Index start, size, theta, bar, mean, square;
};

__device__ inline const Leaf& leaf_of(const Leaf* leaves, int count, Index i) {
  int low = 0, high = count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (leaves[middle].start <= i) low = middle;
    else high = middle - 1;
  }
  return leaves[low];
}

// Adam on all arrays at once, of however many networks. leaves (count); theta, mean, square: new, flat, in
// the order of the leaves.
extern "C" __global__ void adam_steps(const Leaf* leaves, Index count, Index size, double beta1,
                                      double beta2, double mean_scale, double square_scale,
                                      double learning_rate, double eps, double eps_root,
                                      Real* theta, Real* mean, Real* square) {
  const Index step = Index(gridDim.x) * blockDim.x;
  for (Index i = Index(blockIdx.x) * blockDim.x + threadIdx.x; i < size; i += step) {
    const Leaf& leaf = leaf_of(leaves, int(count), i);
    const Index j = i - leaf.start;
    if (j >= leaf.size) continue;  // between two arrays
    const Real g = reinterpret_cast<const Real*>(leaf.bar)[j];
    const Real m = Real(beta1) * reinterpret_cast<const Real*>(leaf.mean)[j] + Real(1 - beta1) * g;
    const Real s =
        Real(beta2) * reinterpret_cast<const Real*>(leaf.square)[j] + Real(1 - beta2) * (g * g);
    const Real root = sqrt_(s * Real(square_scale) + Real(eps_root));
    theta[i] = reinterpret_cast<const Real*>(leaf.theta)[j] -
               Real(learning_rate) * (m * Real(mean_scale)) / (root + Real(eps));
    mean[i] = m;
    square[i] = s;
  }
}

// target ← τ·online + (1 − τ)·target of all arrays at once: theta is the target, bar the online one.
extern "C" __global__ void moving_averages(const Leaf* leaves, Index count, Index size, double tau,
                                           Real* out) {
  const Index step = Index(gridDim.x) * blockDim.x;
  for (Index i = Index(blockIdx.x) * blockDim.x + threadIdx.x; i < size; i += step) {
    const Leaf& leaf = leaf_of(leaves, int(count), i);
    const Index j = i - leaf.start;
    if (j >= leaf.size) continue;
    out[i] = Real(tau) * reinterpret_cast<const Real*>(leaf.bar)[j] +
             Real(1 - tau) * reinterpret_cast<const Real*>(leaf.theta)[j];
  }
}

// A loss of `size` numbers, in double precision: of each the weighted square of an error, and the
// cotangent. partial (gridDim.x) gets the blocks' sums, added up by `total`.
__device__ inline void block_total(double own, double* partial) {
  double* sums = reinterpret_cast<double*>(shared_memory);  // (blockDim.x)
  sums[threadIdx.x] = own;
  __syncthreads();
  for (int half = blockDim.x / 2; half > 0; half /= 2) {
    if (int(threadIdx.x) < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x == 0) partial[blockIdx.x] = sums[0];
}

// Σ x² of all arrays at once, in double precision: theta is x. partial as of `block_total`.
extern "C" __global__ void sum_of_squares(const Leaf* leaves, Index count, Index size,
                                          double* partial) {
  double own = 0;
  const Index step = Index(gridDim.x) * blockDim.x;
  for (Index i = Index(blockIdx.x) * blockDim.x + threadIdx.x; i < size; i += step) {
    const Leaf& leaf = leaf_of(leaves, int(count), i);
    const Index j = i - leaf.start;
    if (j >= leaf.size) continue;
    const double x = double(reinterpret_cast<const Real*>(leaf.theta)[j]);
    own += x * x;
  }
  block_total(own, partial);
}

// scale·x of all arrays at once: theta is x.
extern "C" __global__ void all_scaled(const Leaf* leaves, Index count, Index size, double scale,
                                      Real* out) {
  const Index step = Index(gridDim.x) * blockDim.x;
  for (Index i = Index(blockIdx.x) * blockDim.x + threadIdx.x; i < size; i += step) {
    const Leaf& leaf = leaf_of(leaves, int(count), i);
    const Index j = i - leaf.start;
    if (j < leaf.size) out[i] = Real(scale) * reinterpret_cast<const Real*>(leaf.theta)[j];
  }
}

// error = y − target; weight·error² and 2·weight·error/size. target and weight (repeats of) `inner`
// numbers: y's number i has theirs number i % inner; weight null: `factor`.
extern "C" __global__ void squared_error(const Real* y, const Real* target, const Real* weight,
                                         double factor, Index size, Index inner, Index per_weight,
                                         Real* y_bar, double* partial) {
  double own = 0;
  const Index step = Index(gridDim.x) * blockDim.x;
  for (Index i = Index(blockIdx.x) * blockDim.x + threadIdx.x; i < size; i += step) {
    const Real error = y[i] - target[i % inner];
    const Real w = weight ? weight[i % inner / per_weight] : Real(factor);
    own += double(w * error * error);
    y_bar[i] = w * error * Real(2.0 / double(size));
  }
  block_total(own, partial);
}

// valid·|τ − 1(q − v ≤ 0)|·(q − v)², and its derivative in v.
extern "C" __global__ void expectile_error(const Real* q, const Real* v, const Real* valid,
                                           double expectile, Index size, Real* v_bar,
                                           double* partial) {
  double own = 0;
  const Index step = Index(gridDim.x) * blockDim.x;
  for (Index i = Index(blockIdx.x) * blockDim.x + threadIdx.x; i < size; i += step) {
    const Real advantage = q[i] - v[i];
    const Real weight = valid[i] * (advantage > 0 ? Real(expectile) : Real(1 - expectile));
    own += double(weight * advantage * advantage);
    v_bar[i] = weight * advantage * Real(-2.0 / double(size));
  }
  block_total(own, partial);
}

// The sum of the partial sums, in order, over the number of summands.
extern "C" __global__ void mean_of(const double* partial, Index count, double size, double* out) {
  if (blockIdx.x > 0 || threadIdx.x > 0) return;
  double total = 0;
  for (Index i = 0; i < count; ++i) total += partial[i];
  *out = total / size;
}

// Windows of a data set that is on the device, as qgf_ref.data.windows gives them. actions (B, H·A).
struct Dataset {
  const Real *observations, *next_observations, *actions, *rewards, *masks, *terminals;
  Index steps, obs_dim, action_dim;
};

// A warp a window. Outputs: obs, next_obs (rows, O), action (rows, H·A), rewards, masks, valid (rows).
extern "C" __global__ void gather_windows(Dataset data, const Index* starts, Index rows,
                                          Index horizon, double discount, Real* obs, Real* action,
                                          Real* next_obs, Real* rewards, Real* masks,
                                          Real* valid) {
  const Index row = (Index(blockIdx.x) * blockDim.x + threadIdx.x) / WARP;
  if (row >= rows) return;
  const int lane = threadIdx.x % WARP;
  const Index start = starts[row], O = data.obs_dim, D = horizon * data.action_dim;
  // steps before the end of the episode, that step included
  Index last = 0;
  while (last < horizon - 1 && !(data.terminals[start + last] > 0)) ++last;
  for (Index j = lane; j < O; j += WARP) {
    obs[row * O + j] = data.observations[start * O + j];
    next_obs[row * O + j] = data.next_observations[(start + last) * O + j];
  }
  for (Index j = lane; j < D; j += WARP)
    action[row * D + j] = data.actions[start * data.action_dim + j];
  if (lane > 0) return;
  double sum = 0, factor = 1;
  Real mask = data.masks[start];
  for (Index i = 0; i <= last; ++i, factor *= discount) {
    sum += factor * double(data.rewards[start + i]);
    mask = data.masks[start + i] < mask ? data.masks[start + i] : mask;
  }
  rewards[row] = Real(sum);
  // the last of the window counts as 1 where it lies beyond the end
  masks[row] = last < horizon - 1 && mask > 1 ? Real(1) : mask;
  valid[row] = Real(last == horizon - 1);
}
