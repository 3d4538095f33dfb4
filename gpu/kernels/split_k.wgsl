// out = fused(Σ parts).  parts: [S, M, N] f32, the sums of matmul.wgsl over one part of K each   out: [M, N]
// One thread adds four neighbouring elements, part after part: always in the same order.
// Cost: reads 4·S·M·N bytes, writes M·N; S·M·N flops.

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let groups_of_row = (p.N + 255u) / 256u;
  let index = group.x + group.y * groups.x;
  let row = index / groups_of_row;
  let column = 4u * (index % groups_of_row * 64u + thread);
  if (row >= p.M || column >= p.N) { return; }
  let start = row * p.N;
  var v = vec4<f32>();
  for (var part = 0u; part < p.parts; part++) {
    let offset = part * p.M * p.N + start;
    v += parts_quad(offset + column, offset + p.N);
  }
  store_fused(start + column, start + p.N, v);
}
