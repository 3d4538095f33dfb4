// Random numbers that are functions of a seed and a counter, bit for bit those of device/random.ts.

fn hash32(value: u32) -> u32 {
  var x = (value ^ (value >> 16u)) * 0x7feb352du;
  x = (x ^ (x >> 15u)) * 0x846ca68bu;
  return x ^ (x >> 16u);
}

// 24 bits of draw `counter`: uniform(seed, counter) times 2^24.
fn draw_bits(seed: u32, counter: u32) -> u32 {
  return hash32(seed ^ hash32(counter ^ 0x85ebca6bu)) >> 8u;
}
