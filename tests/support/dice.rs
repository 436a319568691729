//! Numbers without a pattern, the same in every run, and messages made of them.

/// SplitMix64.
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let bits = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// A message that says who sent it and which one it is, and depends on both in each of its bytes.
pub fn message(session: u64, number: u64, size: usize) -> Vec<u8> {
    let mut bytes = [session.to_le_bytes(), number.to_le_bytes()].concat();
    let mut dice = Dice(session << 32 | number);
    while bytes.len() < size {
        bytes.extend_from_slice(&dice.next().to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}
