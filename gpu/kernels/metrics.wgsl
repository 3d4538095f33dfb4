// Numbers of a step that stay on the GPU until the host asks: metrics[slot] = (loss, gradient norm, applied, –), f32.
// SUM_LOSS:      metrics[slot].loss = Σ losses (+ what was there).              losses: [T, 1], one workgroup, reads T
// SQUARES:       partial[g] = Σ g² over every workgroup's own share.           gradients: [n], reads n
// FINISH_NORM:   metrics[slot].gradNorm = sqrt(Σ partial) / loss_scale.          one workgroup
// Each thread adds its elements in order, then the workgroup in a fixed tree: the same sums give the same bits.

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
#if SUBGROUPS
  @builtin(subgroup_invocation_id) lane_of_subgroup: u32,
  @builtin(subgroup_id) id_of_subgroup: u32,
  @builtin(num_subgroups) number_of_subgroups: u32,
#end
) {
#if SUBGROUPS
  subgroup_lane = lane_of_subgroup;
  subgroup_index = id_of_subgroup;
  subgroup_count = number_of_subgroups;
#end
  var sum = 0.0;
#if SUM_LOSS
  for (var i = thread; i < p.n; i += THREADS) { sum += losses_load(i); }
  let total = workgroup_sum_f32(sum, thread);
  if (thread == 0u) {
    let at = p.metrics_base + p.place;
    metrics[at] = select(0.0, metrics[at], p.accumulate == 1u) + total;
  }
#end
#if SQUARES
  for (var i = 4u * (group.x * THREADS + thread); i < p.n; i += 4u * THREADS * groups.x) {
    let g = gradients_quad(i, p.n);
    sum += dot(g, g);
  }
  let total = workgroup_sum_f32(sum, thread);
  if (thread == 0u) { partial[p.partial_base + p.first + group.x] = total; }
#end
#if FINISH_NORM
  for (var i = thread; i < p.n; i += THREADS) { sum += partial_load(i); }
  let total = workgroup_sum_f32(sum, thread);
  if (thread == 0u) { metrics[p.metrics_base + p.place] = sqrt(total) / control_load(1u); }
#end
}
