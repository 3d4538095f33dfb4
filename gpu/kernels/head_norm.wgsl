// The norm of each head of queries and keys (Qwen 3); heads of values are copied.
// qkv: [T, p.heads · D], p.queries heads of queries, p.keys of keys, then values.   w: [2, D], of queries, then of keys
// Forward:   out = w ∘ x̂ with x̂ = x · r, r = 1 / sqrt(mean(x²) + ε), head by head.
// BACKWARD:  dx = r · (g − x̂ · mean(g · x̂)) with g = w ∘ dy; leaves r of each head.   reciprocals: [T · p.heads]
// One workgroup a head, a quad a thread at a time. Cost: reads and writes the whole matrix; backward reads two.
// The gradient of w: head_norm_weight.wgsl.

fn kernel(group: vec3<u32>, groups: vec3<u32>, thread: u32) {
  let at = group.x + group.y * groups.x;
  if (at >= p.count) { return; }
  let head = at % p.heads;
  let start = at * p.D;
  let end = start + p.D;
  if (head >= p.queries + p.keys) {
    for (var i = 4u * thread; i < p.D; i += 4u * THREADS) {
#if BACKWARD
      dx_store_quad(start + i, end, dy_quad(start + i, end));
#else
      out_store_quad(start + i, end, x_quad(start + i, end));
#end
    }
    return;
  }
  let weight = select(0u, p.D, head >= p.queries);

  var squares = 0.0;
  var products = 0.0;
  for (var i = 4u * thread; i < p.D; i += 4u * THREADS) {
    let v = x_quad(start + i, end);
    squares += dot(v, v);
#if BACKWARD
    products += dot(v, dy_quad(start + i, end) * w_quad(weight + i, weight + p.D));
#end
  }
  let r = inverseSqrt(workgroup_sum_f32(squares, thread) / f32(p.D) + p.epsilon);
#if BACKWARD
  let mean = workgroup_sum_f32(products, thread) * r / f32(p.D);
  if (thread == 0u) { reciprocals[p.reciprocals_base + at] = r; }
#end
  for (var i = 4u * thread; i < p.D; i += 4u * THREADS) {
    let w = w_quad(weight + i, weight + p.D);
#if BACKWARD
    dx_store_quad(start + i, end, r * (dy_quad(start + i, end) * w - x_quad(start + i, end) * r * mean));
#else
    out_store_quad(start + i, end, x_quad(start + i, end) * r * w);
#end
  }
}
