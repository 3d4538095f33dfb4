// x[t] = table[tokens[t]].   x: [T, E]   table: [V, E].   One workgroup a row. Cost: reads and writes T·E.

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let row = group.x + group.y * groups.x;
  if (row >= p.T) { return; }
  let from_ = tokens_load(row) * p.E;
  let to = row * p.E;
  for (var i = 4u * thread; i < p.E; i += 256u) {
    x_store_quad(to + i, to + p.E, table_quad(from_ + i, from_ + p.E));
  }
}
