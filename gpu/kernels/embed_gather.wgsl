// table[id] += Σ ds[t] over the rows t that used id, in the order of the batch.   table: [V or B, E] f32   ds: [T, E] f32
// runs: for each id in use (id, first, last + 1): its rows are order[first … last]. The host sorts them when it loads a batch.
// One workgroup an id, a quad of E a thread: no two threads write the same element, no atomics.
// Cost: reads T·E of ds and U·E of the table for U ids in use, writes U·E.

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let run = group.x + group.y * groups.x;
  if (run >= p.runs) { return; }
  let id = runs_load(3u * run);
  let first = runs_load(3u * run + 1u);
  let last = runs_load(3u * run + 2u);
  let start = id * p.E;
  for (var i = 4u * thread; i < p.E; i += 256u) {
    var sum = table_quad(start + i, start + p.E);
    for (var n = first; n < last; n++) {
      let row = order_load(n) * p.E;
      sum += ds_quad(row + i, row + p.E);
    }
    table_store_quad(start + i, start + p.E, sum);
  }
}
