//! The sum of internet protocols (RFC 1071).

/// Over all parts one after the other, in the order of the wire; every one but the last has an even length.
pub fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let sum: u64 =
        words.map(|word| u64::from(word[0]) << 8 | word.get(1).copied().map_or(0, u64::from)).sum();
    let mut folded = sum;
    while folded > 0xffff {
        folded = (folded & 0xffff) + (folded >> 16);
    }
    let folded = u16::try_from(folded).unwrap_or_default();
    (!folded).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1071_sums_up_and_with_its_sum_to_nothing() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(checksum(&[&bytes]), (!0xddf2_u16).to_be_bytes());
        assert_eq!(checksum(&[&bytes[..2], &bytes[2..], &(!0xddf2_u16).to_be_bytes()]), [0, 0]);
    }
}
