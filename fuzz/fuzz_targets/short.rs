//! Inputs of a few bytes that mean much: every other one that is tried is made here, so that they are not lost among the long ones.
//!
//! Owns how they come to be: a right one with some of its bytes changed. What the bytes mean is the target's affair.

/// The next input: libFuzzer's own mutation of `data`, or one of `right` with one to three changes behind its first byte.
pub fn mutate(data: &mut [u8], size: usize, most: usize, seed: u32, right: &[&[u8]]) -> usize {
    let mut dice = Dice(u64::from(seed) + 1);
    if dice.below(2) == 0 {
        return libfuzzer_sys::fuzzer_mutate(data, size, most);
    }
    let mut made = right[dice.below(right.len())].to_vec();
    for _ in 0..=dice.below(3) {
        let (at, value) = (1 + dice.below(made.len() - 1), dice.below(256) as u8);
        match dice.below(6) {
            0 if made.len() > 2 => drop(made.remove(at)),
            1 => made.insert(at, value),
            2 => made.push(value),
            _ => made[at] = value,
        }
    }
    made.truncate(most.min(data.len()));
    data[..made.len()].copy_from_slice(&made);
    made.len()
}

/// Numbers from a seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ mixed >> 31) % most as u64) as usize
    }
}
