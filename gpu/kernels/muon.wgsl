// The element-wise part of Muon; its products are matmul.wgsl. One of three, a quad a thread:
//
// MOMENTUM:    g = gradient · (1 − beta) · factor;  m = beta·m + g;  out = beta·m + g; out = 0 where the step does not count.
//              n elements each. Reads 2·n, writes 2·n.
// POLYNOMIAL:  out = s · (c0·I + c1·s²·a + c2·s⁴·square), [n, n] each, with s = 1 / (sqrt(trace(a)) + 1e-7) where `normalize`,
//              else 1. Each workgroup adds up the trace for itself, in a fixed order. Reads 2·n² and the diagonal, writes n².
// UPDATE:      params −= learning_rate · (update + decay · params), n elements, where the step counts; `cautious` decays only
//              what has the sign of its update. The working copy is params rounded to its type. Reads 2·n, writes n or 2·n.

fn kernel(group: vec3<u32>, groups: vec3<u32>, thread: u32) {
  let i = 4u * ((group.x + group.y * groups.x) * THREADS + thread);
#if MOMENTUM
  if (i >= p.n) { return; }
  let factor = control_load(3u);
  if (factor < 0.0) {
    out_store_quad(i, p.n, vec4<f32>());
    return;
  }
  let g = gradients_quad(i, p.n) * (p.rest * factor);
  let m_new = p.beta * m_quad(i, p.n) + g;
  m_store_quad(i, p.n, m_new);
  out_store_quad(i, p.n, p.beta * m_new + g);
#end
#if POLYNOMIAL
  var part = 0.0;
  for (var row = thread; row < p.n; row += THREADS) { part += diagonal_load(row * (p.n + 1u)); }
  let trace = workgroup_sum_f32(part, thread);
  let s = select(1.0, 1.0 / (sqrt(trace) + 1e-7), p.normalize != 0u);
  let end = p.n * p.n;
  if (i >= end) { return; }
  var quad = s * s * s * (p.c1 * a_quad(i, end) + s * s * (p.c2 * square_quad(i, end)));
  // element e is on the diagonal where e % (n + 1) is 0
#for c in 0..4
  if ((i + $cu) % (p.n + 1u) == 0u) { quad[$c] += s * p.c0; }
#end
  out_store_quad(i, end, quad);
#end
#if UPDATE
  if (i >= p.n || control_load(3u) < 0.0) { return; }
  let u = update_quad(i, p.n);
  let w = params_quad(i, p.n);
  let decays = select(vec4(1.0), select(vec4(0.0), vec4(1.0), u * w > vec4(0.0)), p.cautious != 0u);
  let w_new = w - p.learning_rate * (u + p.decay * decays * w);
  params_store_quad(i, p.n, w_new);
#if WORK
  work_store_quad(i, p.n, w_new);
#end
#end
}
