// What follows a product in a dense block, on one row: y = f(γ·x̂ + β), x̂ = LayerNorm(z + b).
//
// Only z is kept of a forward: a product reads it once more and needs no other array. The equations
// are those of qgf_ref.ops.layer_norm and qgf_ref.ops.activations. A row is a team's: a warp's, or a
// whole block's where there are few rows.

constexpr double SQRT_HALF = 0.70710678118654752440;
constexpr double INVERSE_SQRT_2_PI = 0.39894228040143267794;

// Who shares a row: the number of this thread, how many there are, and their sum. Here a warp; the
// interpreter for few rows has another.
struct WarpTeam {
  int lane;
  static constexpr int size = WARP;
  __device__ Real sum(Real x) const { return warp_sum(x); }
};

// f(h), f′(h) and f″(h). Which f is compiled in: its number in qgf_ref.ops.activations.ACTIVATIONS.
struct Curve {
  Real value, slope, bend;
};

__device__ inline Real sigmoid(Real x) {
  const Real e = exp_(x > 0 ? -x : x);  // |e| ≤ 1: never overflows
  return (x > 0 ? Real(1) : e) / (1 + e);
}

__device__ inline Curve gelu(Real x) {
  const Real cubic = Real(GELU_CUBIC), factor = Real(SQRT_2_OVER_PI);
  const Real t = tanh_(factor * (x + cubic * (x * x * x)));
  const Real du = factor * (1 + 3 * cubic * (x * x)), ddu = 6 * factor * cubic * x;
  const Real sech2 = 1 - t * t;
  // the factor that vanishes first: far out the others overflow
  return {Real(0.5) * x * (1 + t), Real(0.5) * (1 + t) + Real(0.5) * x * sech2 * du,
          sech2 * du * (1 - x * t * du) + Real(0.5) * x * (sech2 * ddu)};
}

__device__ inline Curve gelu_erf(Real x) {
  const Real inner = erf_(x * Real(SQRT_HALF));
  const Real bell = exp_(Real(-0.5) * x * x) * Real(INVERSE_SQRT_2_PI);
  return {Real(0.5) * x * (1 + inner), Real(0.5) * (1 + inner) + x * bell,
          2 * bell - x * (x * bell)};
}

// x·σ(cx)
__device__ inline Curve gated(Real x, Real c) {
  const Real s = sigmoid(c * x);
  return {x * s, s * (1 + c * x * (1 - s)), c * s * (1 - s) * (2 + c * x * (1 - 2 * s))};
}

__device__ inline Curve mish(Real x) {
  const Real s = sigmoid(x);
  const Real t = tanh_((x > 0 ? x : Real(0)) + log1p_(exp_(x > 0 ? -x : x)));
  const Real sech2 = 1 - t * t;
  return {x * t, t + x * sech2 * s, sech2 * s * (2 + x * (1 - s - 2 * t * s))};
}

__device__ inline Curve curve(bool active, Real x) {
  if (!active) return {x, Real(1), Real(0)};
#if ACTIVATION == 0
  return gelu(x);
#elif ACTIVATION == 1
  return gelu_erf(x);
#elif ACTIVATION == 2
  return gated(x, Real(QUICK_GELU));
#elif ACTIVATION == 3
  return {x > 0 ? x : (x != x ? x : Real(0)), x > 0 ? Real(1) : Real(0), Real(0)};
#elif ACTIVATION == 4
  return gated(x, Real(1));
#elif ACTIVATION == 5
  const Real t = tanh_(x);
  return {t, 1 - t * t, -2 * t * (1 - t * t)};
#elif ACTIVATION == 6
  const Real e = expm1_(x > 0 ? Real(0) : x);
  return {x > 0 ? x : e, x > 0 ? Real(1) : e + 1, x > 0 ? Real(0) : e + 1};
#else
  return mish(x);
#endif
}

// One layer, for one member. bias, scale, offset: a row each, aligned as z is.
struct Layer {
  int columns;
  bool aligned, norm, fast, active;
  Real eps;
  const Real *bias, *scale, *offset;  // null: 0, 1, 0
};

// z + b of a pack, and where in the row
__device__ inline Pack biased(const Layer& layer, const Real* z, int j) {
  Pack x = load(z, j, layer.columns, layer.aligned);
  if (layer.bias) {
    const Pack b = load(layer.bias, j, layer.columns, layer.aligned);
#pragma unroll
    for (int i = 0; i < PACK; ++i) x.v[i] += b.v[i];
  }
  return x;
}

struct Moments {
  Real mean, rstd;
};

// The mean of z + b and 1/√(var + eps); of a layer without LayerNorm 0 and 1.
template <class Team>
__device__ inline Moments moments(const Layer& layer, const Real* z, const Team& team) {
  if (!layer.norm) return {0, 1};
  Real sum = 0, squares = 0;
  for (int j = team.lane * PACK; j < layer.columns; j += team.size * PACK) {
    const Pack x = biased(layer, z, j);
#pragma unroll
    for (int i = 0; i < PACK; ++i) {
      sum += x.v[i];
      squares += x.v[i] * x.v[i];
    }
  }
  const Real mean = team.sum(sum) / layer.columns;
  Real variance;
  if (layer.fast) {
    variance = team.sum(squares) / layer.columns - mean * mean;
    variance = variance > 0 ? variance : Real(0);
  } else {
    Real apart = 0;
    for (int j = team.lane * PACK; j < layer.columns; j += team.size * PACK) {
      const Pack x = biased(layer, z, j);
#pragma unroll
      for (int i = 0; i < PACK; ++i)
        if (j + i < layer.columns) apart += (x.v[i] - mean) * (x.v[i] - mean);
    }
    variance = team.sum(apart) / layer.columns;
  }
  return {mean, 1 / sqrt_(variance + layer.eps)};
}

// x̂, γ and h = γ·x̂ + β of a pack; without LayerNorm x, 1 and x
struct Normed {
  Pack x_hat, scale, h;
};

__device__ inline Normed normed(const Layer& layer, const Real* z, Moments m, int j) {
  Normed n;
  n.x_hat = biased(layer, z, j);
  Pack offset;
#pragma unroll
  for (int i = 0; i < PACK; ++i) {
    n.scale.v[i] = 1;
    offset.v[i] = 0;
  }
  if (layer.norm) {
    n.scale = load(layer.scale, j, layer.columns, layer.aligned);
    offset = load(layer.offset, j, layer.columns, layer.aligned);
  }
#pragma unroll
  for (int i = 0; i < PACK; ++i) {
    n.x_hat.v[i] = (n.x_hat.v[i] - m.mean) * m.rstd;
    n.h.v[i] = n.x_hat.v[i] * n.scale.v[i] + offset.v[i];
  }
  return n;
}

// y = f(h). y may be null; with `head` (a row) the lanes' shares of ⟨y, head⟩ are returned.
template <class Team>
__device__ inline Real row_forward(const Layer& layer, const Real* z, Moments m, Real* y,
                                   const Real* head, const Team& team) {
  Real dot = 0;
  for (int j = team.lane * PACK; j < layer.columns; j += team.size * PACK) {
    const Normed n = normed(layer, z, m, j);
    Pack value, weight;
#pragma unroll
    for (int i = 0; i < PACK; ++i) value.v[i] = curve(layer.active, n.h.v[i]).value;
    if (head) {
      weight = load(head, j, layer.columns, layer.aligned);
#pragma unroll
      for (int i = 0; i < PACK; ++i)
        if (j + i < layer.columns) dot += value.v[i] * weight.v[i];
    }
    if (y) store(y, j, layer.columns, layer.aligned, value);
  }
  return dot;
}

// x_dot → y_dot = f′(h)·γ·x̂_dot, x̂_dot = rstd·(x_dot − mean x_dot − x̂·mean(x̂·x_dot))
template <class Team>
__device__ inline void row_tangent(const Layer& layer, const Real* z, Moments m, const Real* x_dot,
                                   Real* y_dot, const Team& team) {
  Real sum = 0, along = 0;
  if (layer.norm) {
    for (int j = team.lane * PACK; j < layer.columns; j += team.size * PACK) {
      const Normed n = normed(layer, z, m, j);
      const Pack d = load(x_dot, j, layer.columns, layer.aligned);
#pragma unroll
      for (int i = 0; i < PACK; ++i) {
        sum += d.v[i];
        along += n.x_hat.v[i] * d.v[i];
      }
    }
    sum = team.sum(sum) / layer.columns;
    along = team.sum(along) / layer.columns;
  }
  for (int j = team.lane * PACK; j < layer.columns; j += team.size * PACK) {
    const Normed n = normed(layer, z, m, j);
    Pack d = load(x_dot, j, layer.columns, layer.aligned);
#pragma unroll
    for (int i = 0; i < PACK; ++i) {
      if (layer.norm) d.v[i] = m.rstd * (d.v[i] - sum - n.x_hat.v[i] * along);
      d.v[i] *= n.scale.v[i] * curve(layer.active, n.h.v[i]).slope;
    }
    store(y_dot, j, layer.columns, layer.aligned, d);
  }
}

// y_bar·factor → x_bar = rstd·(u − mean u − x̂·mean(x̂·u)), u = γ·f′(h)·y_bar. May be in place.
template <class Team>
__device__ inline void row_back(const Layer& layer, const Real* z, Moments m, const Real* y_bar,
                                Real factor, Real* x_bar, const Team& team) {
  Real sum = 0, along = 0;
  if (layer.norm) {
    for (int j = team.lane * PACK; j < layer.columns; j += team.size * PACK) {
      const Normed n = normed(layer, z, m, j);
      const Pack b = load(y_bar, j, layer.columns, layer.aligned);
#pragma unroll
      for (int i = 0; i < PACK; ++i) {
        const Real u =
            n.scale.v[i] * (curve(layer.active, n.h.v[i]).slope * (factor * b.v[i]));
        sum += u;
        along += n.x_hat.v[i] * u;
      }
    }
    sum = team.sum(sum) / layer.columns;
    along = team.sum(along) / layer.columns;
  }
  for (int j = team.lane * PACK; j < layer.columns; j += team.size * PACK) {
    const Normed n = normed(layer, z, m, j);
    Pack b = load(y_bar, j, layer.columns, layer.aligned);
#pragma unroll
    for (int i = 0; i < PACK; ++i) {
      const Real u = n.scale.v[i] * (curve(layer.active, n.h.v[i]).slope * (factor * b.v[i]));
      b.v[i] = layer.norm ? m.rstd * (u - sum - n.x_hat.v[i] * along) : u;
    }
    store(x_bar, j, layer.columns, layer.aligned, b);
  }
}

// The derivative of `row_back` along the tangent x_dot at z and y_bar_dot (null: 0) at y_bar. x_bar
// may be null. May be in place: y_bar with x_bar, y_bar_dot with x_bar_dot.
template <class Team>
__device__ inline void row_bent(const Layer& layer, const Real* z, Moments m, const Real* x_dot,
                                const Real* y_bar, Real factor, const Real* y_bar_dot, Real* x_bar,
                                Real* x_bar_dot, const Team& team) {
  const int columns = layer.columns;
  Real dot_mean = 0, dot_along = 0;  // of x_dot
  if (layer.norm) {
    for (int j = team.lane * PACK; j < columns; j += team.size * PACK) {
      const Normed n = normed(layer, z, m, j);
      const Pack d = load(x_dot, j, columns, layer.aligned);
#pragma unroll
      for (int i = 0; i < PACK; ++i) {
        dot_mean += d.v[i];
        dot_along += n.x_hat.v[i] * d.v[i];
      }
    }
    dot_mean = team.sum(dot_mean) / columns;
    dot_along = team.sum(dot_along) / columns;
  }
  const Real relative = layer.norm ? -m.rstd * dot_along : Real(0);  // rstd_dot/rstd
  // means of u, x̂·u, v, x̂·v, x̂_dot·u with u = γ·h_bar, v = γ·h_bar_dot + (rstd_dot/rstd)·u
  Real u_mean = 0, u_along = 0, v_mean = 0, v_along = 0, u_bent = 0;
#pragma unroll 1
  for (int pass = layer.norm ? 0 : 1; pass < 2; ++pass) {
    for (int j = team.lane * PACK; j < columns; j += team.size * PACK) {
      const Normed n = normed(layer, z, m, j);
      const Pack d = load(x_dot, j, columns, layer.aligned);
      Pack b = load(y_bar, j, columns, layer.aligned), c;
      if (y_bar_dot) c = load(y_bar_dot, j, columns, layer.aligned);
#pragma unroll
      for (int i = 0; i < PACK; ++i) {
        const Real x_hat = n.x_hat.v[i], scale = n.scale.v[i];
        const Real x_hat_dot =
            layer.norm ? m.rstd * (d.v[i] - dot_mean - x_hat * dot_along) : d.v[i];
        const Curve f = curve(layer.active, n.h.v[i]);
        const Real y = factor * b.v[i];
        const Real u = scale * (f.slope * y);
        const Real bent = f.bend * (scale * x_hat_dot) * y;
        const Real v =
            scale * (bent + (y_bar_dot ? f.slope * c.v[i] : Real(0))) + relative * u;
        if (pass == 0) {
          u_mean += u;
          u_along += x_hat * u;
          v_mean += v;
          v_along += x_hat * v;
          u_bent += j + i < columns ? x_hat_dot * u : Real(0);
        } else if (layer.norm) {
          b.v[i] = m.rstd * (u - u_mean - x_hat * u_along);
          c.v[i] = m.rstd * (v - v_mean - x_hat * v_along) -
                   m.rstd * (x_hat_dot * u_along + x_hat * u_bent);
        } else {
          b.v[i] = u;
          c.v[i] = v;
        }
      }
      if (pass == 1) {
        if (x_bar) store(x_bar, j, columns, layer.aligned, b);
        store(x_bar_dot, j, columns, layer.aligned, c);
      }
    }
    if (pass == 0) {
      u_mean = team.sum(u_mean) / columns;
      u_along = team.sum(u_along) / columns;
      v_mean = team.sum(v_mean) / columns;
      v_along = team.sum(v_along) / columns;
      u_bent = team.sum(u_bent) / columns;
    }
  }
}
