// Gradient of the weights of scaled_norm.wgsl: dw += Σ dy ∘ x · r over the rows, in two kernels.
// First:     partial[block] = the sum over ROWS rows.      dy, x: [T, E]   reciprocals: [T]   partial: [blocks, E] f32
// TOTAL:     dw += the sum over the blocks, in order.      dw: [E] f32
// A thread has a quad of columns. Cost: reads 2·T·E, and E · T / ROWS partial sums twice.

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let i = 4u * (64u * group.x + thread);
  if (i >= p.E) { return; }
#if TOTAL
  var sum = dw_quad(i, p.E);
  for (var block = 0u; block < p.blocks; block++) {
    sum += partial_quad(block * p.E + i, (block + 1u) * p.E);
  }
  dw_store_quad(i, p.E, sum);
#else
  let first = group.y * p.rows;
  var sum = vec4<f32>();
  for (var row = first; row < min(first + p.rows, p.T); row++) {
    let at = row * p.E + i;
    let end = (row + 1u) * p.E;
    sum += dy_quad(at, end) * x_quad(at, end) * reciprocals_load(row);
  }
  partial_store_quad(group.y * p.E + i, (group.y + 1u) * p.E, sum);
#end
}
