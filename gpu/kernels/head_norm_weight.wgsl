// Gradient of the weights of head_norm.wgsl: dw += Σ dy ∘ x · r over tokens and heads, in two kernels.
// First:     partial[block] = the sum over p.tokens tokens.   dy, x: [T, p.heads · D]   reciprocals: [T · p.heads]   partial: [blocks, 2D]
// TOTAL:     dw += the sum over the blocks, in order.         dw: [2, D] f32
// A thread has a quad of columns of one of the two rows. Cost: reads queries and keys twice, and 2D · blocks partial sums twice.

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let quads = (p.D + 3u) / 4u;
  let quad = 64u * group.x + thread;
  if (quad >= 2u * quads) { return; }
  let line = quad / quads;
  let i = 4u * (quad % quads);
  let column = line * p.D + i;
  let end = (line + 1u) * p.D;
#if TOTAL
  var sum = dw_quad(column, end);
  for (var block = 0u; block < p.blocks; block++) {
    let start = block * 2u * p.D;
    sum += partial_quad(start + column, start + end);
  }
  dw_store_quad(column, end, sum);
#else
  let first = group.y * p.tokens;
  let from_head = select(0u, p.queries, line == 1u);
  let to_head = select(p.queries, p.queries + p.keys, line == 1u);
  var sum = vec4<f32>();
  for (var t = first; t < min(first + p.tokens, p.T); t++) {
    for (var head = from_head; head < to_head; head++) {
      let at = t * p.heads + head;
      let last = (at + 1u) * p.D;
      sum += dy_quad(at * p.D + i, last) * x_quad(at * p.D + i, last) * reciprocals_load(at);
    }
  }
  let start = group.y * 2u * p.D;
  partial_store_quad(start + column, start + end, sum);
#end
}
