// Before every other source. REAL is float or double, ACTIVATION what is between a hidden layer's
// products, −1 where networks have several.
#ifndef SPINNING  // the processor that stands in for a GPU in tests has definitions of its own
extern __shared__ __align__(16) unsigned char shared_memory[];
#define SPINNING
#endif

typedef REAL Real;
typedef long long Index;

constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;
constexpr int PACK = 16 / sizeof(Real);

// what a thread reads or writes at once: 16 bytes
struct __align__(16) Pack {
  Real v[PACK];
};

// Elements j … j + PACK − 1 of a row of `columns`, 0 beyond its end. aligned: whether the row starts
// on 16 bytes and may be read up to the next multiple of them.
__device__ inline Pack load(const Real* row, int j, int columns, bool aligned) {
  Pack p;
  if (aligned) {
    p = *reinterpret_cast<const Pack*>(row + j);
#pragma unroll
    for (int i = 0; i < PACK; ++i) p.v[i] = j + i < columns ? p.v[i] : Real(0);
  } else {
#pragma unroll
    for (int i = 0; i < PACK; ++i) p.v[i] = j + i < columns ? row[j + i] : Real(0);
  }
  return p;
}

// The same elements, written; an aligned row's padding becomes 0.
__device__ inline void store(Real* row, int j, int columns, bool aligned, Pack p) {
  if (aligned) {
#pragma unroll
    for (int i = 0; i < PACK; ++i) p.v[i] = j + i < columns ? p.v[i] : Real(0);
    *reinterpret_cast<Pack*>(row + j) = p;
  } else {
#pragma unroll
    for (int i = 0; i < PACK; ++i)
      if (j + i < columns) row[j + i] = p.v[i];
  }
}

// The sum over a warp, the same bits in every lane.
__device__ inline Real warp_sum(Real x) {
#pragma unroll
  for (int step = WARP / 2; step > 0; step /= 2) x += __shfl_xor_sync(ALL_LANES, x, step);
  return x;
}

__device__ inline bool is_finite(Real x) { return x - x == Real(0); }

// mathematical functions in the precision of Real
__device__ inline float exp_(float x) { return expf(x); }
__device__ inline double exp_(double x) { return exp(x); }
__device__ inline float expm1_(float x) { return expm1f(x); }
__device__ inline double expm1_(double x) { return expm1(x); }
__device__ inline float log1p_(float x) { return log1pf(x); }
__device__ inline double log1p_(double x) { return log1p(x); }
__device__ inline float tanh_(float x) { return tanhf(x); }
__device__ inline double tanh_(double x) { return tanh(x); }
__device__ inline float erf_(float x) { return erff(x); }
__device__ inline double erf_(double x) { return erf(x); }
__device__ inline float sqrt_(float x) { return sqrtf(x); }
__device__ inline double sqrt_(double x) { return sqrt(x); }

// cos and sin of an angle up to some 10⁴ rad in double precision. Of the library's functions only
// those of multiples of π need no local memory.
struct Turn {
  double cosine, sine;
};

__device__ inline Turn turn(double angle) {
  const double quarters = rint(angle * 0.63661977236758134308);  // 2/π
  double rest = fma(-quarters, 1.5707963267948965580, angle);
  rest = fma(-quarters, 6.1232339957367660359e-17, rest);  // the next digits of π/2
  rest *= 0.31830988618379067154;
  const double c = cospi(rest), s = sinpi(rest);
  const int k = int(quarters) & 3;
  const double x = k % 2 ? s : c, y = k % 2 ? c : s;
  return {k == 1 || k == 2 ? -x : x, k >= 2 ? -y : y};
}
