// out = fused(Σ parts).  parts: [S, M, N] f32, the sums of matmul.wgsl over one part of K each   out: [M, N]
// One thread adds four neighbouring elements, part after part: always in the same order.
// Cost: reads 4·S·M·N bytes, writes M·N; S·M·N flops.

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let columns = (p.N + 3u) / 4u;
  let row = id.y;
  let column = 4u * id.x;
  if (id.x >= columns) { return; }
  let start = row * p.N;
  var v = vec4<f32>();
  for (var part = 0u; part < p.parts; part++) {
    let offset = part * p.M * p.N + start;
    v += parts_quad(offset + column, offset + p.N);
  }
  store_fused(start + column, start + p.N, v);
}
