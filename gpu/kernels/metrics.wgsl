// Numbers of a step that stay on the GPU until the host asks: metrics[slot] = (loss, gradient norm, applied, –), f32.
// SUM_LOSS:      metrics[slot].loss = Σ losses (+ what was there).              losses: [T, 1], one workgroup, reads T
// SQUARES:       partial[g] = Σ g² over every workgroup's own share.           gradients: [n], reads n
// FINISH_NORM:   metrics[slot].gradNorm = sqrt(Σ partial) / loss_scale.          one workgroup
// Each thread adds its elements in order, then the workgroup in a fixed tree: the same sums give the same bits.

fn kernel(group: vec3<u32>, groups: vec3<u32>, thread: u32) {
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
