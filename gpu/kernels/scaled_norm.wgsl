// Forward:   out = w ∘ x̂ with x̂ = x · r, r = 1 / sqrt(mean(x²) + ε), row by row.      out, x: [T, E]   w: [E]
// BACKWARD:  dx += r · (g − x̂ · mean(g · x̂)) with g = w ∘ dy; leaves r of each row.   dx, dy, x: [T, E]   reciprocals: [T]
// One workgroup a row, a quad a thread at a time: a first pass for the sums, a second, from cache, for the result.
// Cost: forward reads T·E, writes T·E. Backward reads 3·T·E, writes T·E. The gradient of w: scaled_norm_weight.wgsl.

fn kernel(group: vec3<u32>, groups: vec3<u32>, thread: u32) {
  let row = group.x + group.y * groups.x;
  if (row >= p.T) { return; }
  let start = row * p.E;
  let end = start + p.E;

  var squares = 0.0;
  var products = 0.0;
  for (var i = 4u * thread; i < p.E; i += 4u * THREADS) {
    let v = x_quad(start + i, end);
    squares += dot(v, v);
#if BACKWARD
    products += dot(v, dy_quad(start + i, end) * w_quad(i, p.E));
#end
  }
  let r = inverseSqrt(workgroup_sum_f32(squares, thread) / f32(p.E) + p.epsilon);
#if BACKWARD
  let mean = workgroup_sum_f32(products, thread) * r / f32(p.E);
  if (thread == 0u) { reciprocals[p.reciprocals_base + row] = r; }
#end
  for (var i = 4u * thread; i < p.E; i += 4u * THREADS) {
    let at = start + i;
#if BACKWARD
    let gradient = r * (dy_quad(at, end) * w_quad(i, p.E) - x_quad(at, end) * r * mean);
    dx_store_quad(at, end, dx_quad(at, end) + gradient);
#else
    out_store_quad(at, end, x_quad(at, end) * r * w_quad(i, p.E));
#end
  }
}
