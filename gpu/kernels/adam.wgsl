// Adam (Kingma & Ba 2015) with decoupled weight decay over arrays of n elements.
//
// PREPARE, one thread: takes t and the factor on gradients from `control` (see decide_step.wgsl), and leaves in
//   `coefficients` (1 where the step counts, factor on gradients, 1 / (1 − beta1^t), 1 / (1 − beta2^t)).
// Otherwise the update, a quad a thread:
//   g = gradient · factor;  m = beta1·m + (1 − beta1)·g;  v = beta2·v + (1 − beta2)·g²
//   w −= lr · (m̂ / (sqrt(v̂) + epsilon) + decay · w);  the working copy is w rounded to its type.
// Cost: reads 16·n bytes, writes 12·n, and 2·n more for a 16-bit working copy; about 14 flops an element: bandwidth decides.

#if PREPARE
// base^n by squaring: exact enough where exp2(n · log2(base)) loses digits of 1 − base^n.
fn power(base: f32, n: u32) -> f32 {
  var result = 1.0;
  var square = base;
  var rest = n;
  for (var bit = 0u; bit < 32u; bit++) {
    if ((rest & 1u) == 1u) { result *= square; }
    square *= square;
    rest >>= 1u;
  }
  return result;
}

@compute @workgroup_size(1)
fn main() {
  let t = u32(control_load(0u));
  let factor = control_load(3u);
  let out = p.coefficients_base;
  coefficients[out] = select(0.0, 1.0, factor >= 0.0);
  coefficients[out + 1u] = factor;
  coefficients[out + 2u] = 1.0 / (1.0 - power(p.beta1, t));
  coefficients[out + 3u] = 1.0 / (1.0 - power(p.beta2, t));
}
#else
@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let i = 4u * ((group.x + group.y * groups.x) * 256u + thread);
  if (i >= p.n || coefficients_load(0u) == 0.0) { return; }
  let g = gradients_quad(i, p.n) * coefficients_load(1u);
  let m_new = p.beta1 * m_quad(i, p.n) + p.rest1 * g;
  let v_new = p.beta2 * v_quad(i, p.n) + p.rest2 * g * g;
  let step = m_new * coefficients_load(2u) / (sqrt(v_new * coefficients_load(3u)) + p.epsilon);
  let w = params_quad(i, p.n);
  let w_new = w - p.learning_rate * (step + p.decay * w);
  m_store_quad(i, p.n, m_new);
  v_store_quad(i, p.n, v_new);
  params_store_quad(i, p.n, w_new);
#if WORK
  work_store_quad(i, p.n, w_new);
#end
}
#end
