// What follows a product in a dense block, on one row: y = f(γ·x̂ + β), x̂ = LayerNorm(z + b), or with
// LayerNorm after the activation y = γ·x̂ + β, x̂ = LayerNorm(f(z + b)).
//
// Either way the Jacobian is diag(after)·P·diag(before), P LayerNorm's own, which is symmetric: `Point`
// has the factors, and jvp, vjp and Hessian product are written once. Only z is kept of a forward: a
// product reads it once more and needs no other array. The equations are those of qgf_ref.ops.layer_norm
// and qgf_ref.ops.activations. A row is a team's: a warp's, or a whole block's where there are few rows.

constexpr double SQRT_HALF = 0.70710678118654752440;
constexpr double INVERSE_SQRT_2_PI = 0.39894228040143267794;

// Who shares a row: the number of this thread, how many there are, and their sum. Here a warp; the
// interpreter for few rows has another.
struct WarpTeam {
  int lane;
  static constexpr int size = WARP;
  __device__ Real sum(Real x) const { return warp_sum(x); }
};

// f(h), f′(h) and f″(h).
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

// Of the function with that number in qgf_ref.ops.activations.ACTIVATIONS; −1: none. It is compiled in as
// ACTIVATION, unless that is −1 itself: then networks of one program have several.
__device__ inline Curve curve(int which, Real x) {
  if (which < 0) return {x, Real(1), Real(0)};
  switch (ACTIVATION < 0 ? which : ACTIVATION) {
    case 0: return gelu(x);
    case 1: return gelu_erf(x);
    case 2: return gated(x, Real(QUICK_GELU));
    case 3: return {x > 0 ? x : (x != x ? x : Real(0)), x > 0 ? Real(1) : Real(0), Real(0)};
    case 4: return gated(x, Real(1));
    case 5: {
      const Real t = tanh_(x);
      return {t, 1 - t * t, -2 * t * (1 - t * t)};
    }
    case 6: {
      const Real e = expm1_(x > 0 ? Real(0) : x);
      return {x > 0 ? x : e, x > 0 ? Real(1) : e + 1, x > 0 ? Real(0) : e + 1};
    }
    default: return mish(x);
  }
}

// One layer, for one member. norm: of qgf_ref.ops.dense.ORDERS; bias, scale, offset: a row each, aligned
// as z is.
struct Layer {
  int columns, norm, activation;
  bool aligned, fast;
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

// What LayerNorm is given: z + b, or f of it; 0 beyond the row's end.
__device__ inline Pack to_norm(const Layer& layer, const Real* z, int j) {
  Pack x = biased(layer, z, j);
  if (layer.norm == NORM_AFTER) {
#pragma unroll
    for (int i = 0; i < PACK; ++i)
      x.v[i] = j + i < layer.columns ? curve(layer.activation, x.v[i]).value : Real(0);
  }
  return x;
}

struct Moments {
  Real mean, rstd;
};

// The mean of what LayerNorm is given and 1/√(var + eps); of a layer without LayerNorm 0 and 1.
template <class Team>
__device__ inline Moments moments(const Layer& layer, const Real* z, const Team& team) {
  if (layer.norm == NO_NORM) return {0, 1};
  Real sum = 0, squares = 0;
  for (int j = team.lane * PACK; j < layer.columns; j += team.size * PACK) {
    const Pack x = to_norm(layer, z, j);
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
      const Pack x = to_norm(layer, z, j);
#pragma unroll
      for (int i = 0; i < PACK; ++i)
        if (j + i < layer.columns) apart += (x.v[i] - mean) * (x.v[i] - mean);
    }
    variance = team.sum(apart) / layer.columns;
  }
  return {mean, 1 / sqrt_(variance + layer.eps)};
}

// A pack of a block: y; x̂ (without LayerNorm z + b) and γ (1); before and after, the factors of the
// Jacobian on both sides of P; bend: f″ where f is asked.
struct Point {
  Pack y, x_hat, scale, before, after, bend;
};

__device__ inline Point point(const Layer& layer, const Real* z, Moments m, int j) {
  Point p;
  const bool last = layer.norm == NORM_AFTER;
  const Pack x = biased(layer, z, j);
  Pack offset;
#pragma unroll
  for (int i = 0; i < PACK; ++i) {
    p.scale.v[i] = 1;
    offset.v[i] = 0;
  }
  if (layer.norm != NO_NORM) {
    p.scale = load(layer.scale, j, layer.columns, layer.aligned);
    offset = load(layer.offset, j, layer.columns, layer.aligned);
  }
#pragma unroll
  for (int i = 0; i < PACK; ++i) {
    const Real scale = p.scale.v[i], first = (x.v[i] - m.mean) * m.rstd;
    const Curve f = curve(layer.activation, last ? x.v[i] : first * scale + offset.v[i]);
    p.x_hat.v[i] = last ? (f.value - m.mean) * m.rstd : first;
    p.y.v[i] = last ? p.x_hat.v[i] * scale + offset.v[i] : f.value;
    p.before.v[i] = last ? f.slope : Real(1);
    p.after.v[i] = last ? scale : scale * f.slope;
    p.bend.v[i] = f.bend;
  }
  return p;
}

// y, and of a residual block carry + y; carry, its input, may be y's own place, or null. y may be null;
// with `head` (a row) the lanes' shares of ⟨y, head⟩ are returned.
template <class Team>
__device__ inline Real row_forward(const Layer& layer, const Real* z, Moments m, const Real* carry,
                                   Real* y, const Real* head, const Team& team) {
  Real dot = 0;
  for (int j = team.lane * PACK; j < layer.columns; j += team.size * PACK) {
    Pack value = point(layer, z, m, j).y;
    if (carry) {
      const Pack c = load(carry, j, layer.columns, layer.aligned);
#pragma unroll
      for (int i = 0; i < PACK; ++i) value.v[i] += c.v[i];
    }
    if (head) {
      const Pack weight = load(head, j, layer.columns, layer.aligned);
#pragma unroll
      for (int i = 0; i < PACK; ++i)
        if (j + i < layer.columns) dot += value.v[i] * weight.v[i];
    }
    if (y) store(y, j, layer.columns, layer.aligned, value);
  }
  return dot;
}

// x_dot → y_dot = after·P(before·x_dot), P(t) = rstd·(t − mean t − x̂·mean(x̂·t)); of a residual block
// carry + y_dot, carry its input's tangent, which may be y_dot's own place; else null.
template <class Team>
__device__ inline void row_tangent(const Layer& layer, const Real* z, Moments m, const Real* x_dot,
                                   const Real* carry, Real* y_dot, const Team& team) {
  const bool normed = layer.norm != NO_NORM;
  Real sum = 0, along = 0;
  if (normed) {
    for (int j = team.lane * PACK; j < layer.columns; j += team.size * PACK) {
      const Point p = point(layer, z, m, j);
      const Pack d = load(x_dot, j, layer.columns, layer.aligned);
#pragma unroll
      for (int i = 0; i < PACK; ++i) {
        const Real t = p.before.v[i] * d.v[i];
        sum += t;
        along += p.x_hat.v[i] * t;
      }
    }
    sum = team.sum(sum) / layer.columns;
    along = team.sum(along) / layer.columns;
  }
  for (int j = team.lane * PACK; j < layer.columns; j += team.size * PACK) {
    const Point p = point(layer, z, m, j);
    Pack d = load(x_dot, j, layer.columns, layer.aligned), c;
    if (carry) c = load(carry, j, layer.columns, layer.aligned);
#pragma unroll
    for (int i = 0; i < PACK; ++i) {
      d.v[i] *= p.before.v[i];
      if (normed) d.v[i] = m.rstd * (d.v[i] - sum - p.x_hat.v[i] * along);
      d.v[i] *= p.after.v[i];
      if (carry) d.v[i] += c.v[i];
    }
    store(y_dot, j, layer.columns, layer.aligned, d);
  }
}

// y_bar·factor → x_bar = before·P(after·y_bar), of z. May be in place. carried, if not null, becomes
// y_bar·factor: what a residual block carries past this, where it was no array before.
template <class Team>
__device__ inline void row_back(const Layer& layer, const Real* z, Moments m, const Real* y_bar,
                                Real factor, Real* x_bar, Real* carried, const Team& team) {
  const bool normed = layer.norm != NO_NORM;
  Real sum = 0, along = 0;
  if (normed) {
    for (int j = team.lane * PACK; j < layer.columns; j += team.size * PACK) {
      const Point p = point(layer, z, m, j);
      const Pack b = load(y_bar, j, layer.columns, layer.aligned);
#pragma unroll
      for (int i = 0; i < PACK; ++i) {
        const Real u = p.after.v[i] * (factor * b.v[i]);
        sum += u;
        along += p.x_hat.v[i] * u;
      }
    }
    sum = team.sum(sum) / layer.columns;
    along = team.sum(along) / layer.columns;
  }
  for (int j = team.lane * PACK; j < layer.columns; j += team.size * PACK) {
    const Point p = point(layer, z, m, j);
    Pack b = load(y_bar, j, layer.columns, layer.aligned);
#pragma unroll
    for (int i = 0; i < PACK; ++i) b.v[i] *= factor;
    if (carried) store(carried, j, layer.columns, layer.aligned, b);
#pragma unroll
    for (int i = 0; i < PACK; ++i) {
      Real u = p.after.v[i] * b.v[i];
      if (normed) u = m.rstd * (u - sum - p.x_hat.v[i] * along);
      b.v[i] = p.before.v[i] * u;
    }
    store(x_bar, j, layer.columns, layer.aligned, b);
  }
}

// The derivative of `row_back` along the tangent x_dot at z and y_bar_dot (null: 0) at y_bar. x_bar
// may be null. May be in place: y_bar with x_bar, y_bar_dot with x_bar_dot. carried: as of `row_back`.
template <class Team>
__device__ inline void row_bent(const Layer& layer, const Real* z, Moments m, const Real* x_dot,
                                const Real* y_bar, Real factor, const Real* y_bar_dot, Real* x_bar,
                                Real* x_bar_dot, Real* carried, const Team& team) {
  const int columns = layer.columns;
  const bool normed = layer.norm != NO_NORM, last = layer.norm == NORM_AFTER;
  Real dot_mean = 0, dot_along = 0;  // of t = before·x_dot
  if (normed) {
    for (int j = team.lane * PACK; j < columns; j += team.size * PACK) {
      const Point p = point(layer, z, m, j);
      const Pack d = load(x_dot, j, columns, layer.aligned);
#pragma unroll
      for (int i = 0; i < PACK; ++i) {
        const Real t = p.before.v[i] * d.v[i];
        dot_mean += t;
        dot_along += p.x_hat.v[i] * t;
      }
    }
    dot_mean = team.sum(dot_mean) / columns;
    dot_along = team.sum(dot_along) / columns;
  }
  const Real relative = normed ? -m.rstd * dot_along : Real(0);  // rstd_dot/rstd
  // means of u, x̂·u, v, x̂·v, x̂_dot·u with u = after·y_bar, v = u_dot + (rstd_dot/rstd)·u
  Real u_mean = 0, u_along = 0, v_mean = 0, v_along = 0, u_bent = 0;
#pragma unroll 1
  for (int pass = normed ? 0 : 1; pass < 2; ++pass) {
    for (int j = team.lane * PACK; j < columns; j += team.size * PACK) {
      const Point p = point(layer, z, m, j);
      const Pack d = load(x_dot, j, columns, layer.aligned);
      Pack b = load(y_bar, j, columns, layer.aligned), c;
      if (y_bar_dot) c = load(y_bar_dot, j, columns, layer.aligned);
#pragma unroll
      for (int i = 0; i < PACK; ++i) b.v[i] *= factor;
      if (pass == 1 && carried) store(carried, j, columns, layer.aligned, b);
#pragma unroll
      for (int i = 0; i < PACK; ++i) {
        const Real x_hat = p.x_hat.v[i], scale = p.scale.v[i], t = p.before.v[i] * d.v[i];
        const Real x_hat_dot = normed ? m.rstd * (t - dot_mean - x_hat * dot_along) : t;
        const Real u = p.after.v[i] * b.v[i];
        // of the activation: after LayerNorm it moves with x̂, before it with x
        Real v = last ? Real(0) : scale * (p.bend.v[i] * (scale * x_hat_dot) * b.v[i]);
        if (y_bar_dot) v += p.after.v[i] * c.v[i];
        v += relative * u;
        if (pass == 0) {
          u_mean += u;
          u_along += x_hat * u;
          v_mean += v;
          v_along += x_hat * v;
          u_bent += j + i < columns ? x_hat_dot * u : Real(0);
          continue;
        }
        Real w = u, w_dot = v;
        if (normed) {
          w = m.rstd * (u - u_mean - x_hat * u_along);
          w_dot = m.rstd * (v - v_mean - x_hat * v_along) -
                  m.rstd * (x_hat_dot * u_along + x_hat * u_bent);
        }
        b.v[i] = p.before.v[i] * w;
        c.v[i] = p.before.v[i] * w_dot;
        if (last) c.v[i] += p.bend.v[i] * d.v[i] * w;
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
