// Forward:   out = x · r with r = 1 / sqrt(mean(x²) + 1e-5), row by row.      out, x: [T, E]
// BACKWARD:  dx += r · (dy − x̂ · mean(dy · x̂)) with x̂ = x · r.               dx, dy, x: [T, E]
// One workgroup a row, a quad a thread at a time: a first pass for the sums, a second, from cache, for the result.
// Cost: forward reads T·E, writes T·E, 4·T·E flops. Backward reads 3·T·E, writes T·E, 9·T·E flops.

fn kernel(group: vec3<u32>, groups: vec3<u32>, thread: u32) {
  let row = group.x + group.y * groups.x;
  if (row >= p.T) { return; }
  let start = row * p.E;
  let end = start + p.E;

  var squares = 0.0;
  var products = 0.0;
  for (var i = start + 4u * thread; i < end; i += 4u * THREADS) {
    let v = x_quad(i, end);
    squares += dot(v, v);
#if BACKWARD
    products += dot(v, dy_quad(i, end));
#end
  }
  let r = inverseSqrt(workgroup_sum_f32(squares, thread) / f32(p.E) + 1e-5);
#if BACKWARD
  let mean = workgroup_sum_f32(products, thread) * r / f32(p.E);
#end
  for (var i = start + 4u * thread; i < end; i += 4u * THREADS) {
#if BACKWARD
    let gradient = r * (dy_quad(i, end) - x_quad(i, end) * r * mean);
    dx_store_quad(i, end, dx_quad(i, end) + gradient);
#else
    out_store_quad(i, end, x_quad(i, end) * r);
#end
  }
}
