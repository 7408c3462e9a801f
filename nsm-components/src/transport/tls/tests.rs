//! What is read from a leaf, whatever stands in it.

use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::*;
use crate::transport::testing::Ca;

fn leaf() -> Vec<u8> {
    static LEAF: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let now = SystemTime::now();
        Ca::new().leaf_between("spiffe://d/a", now, now + Duration::from_hours(1)).0
    });
    LEAF.clone()
}

#[test]
fn a_domain_ends_where_the_path_begins() {
    assert_eq!(domain("spiffe://d/a/b"), Some("d"));
    assert_eq!(domain("spiffe://d"), Some("d"));
    for text in ["", "spiffe://", "spiffe:///a", "https://d/a", "d"] {
        assert_eq!(domain(text), None, "{text:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(peer(&CertificateDer::from(bytes)).is_err());
    }

    /// Whatever is changed in a certificate: it names one ID with a trust domain and a usable key, or
    /// it is refused.
    #[test]
    fn a_changed_certificate_is_refused_or_whole(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = leaf();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(peer) = peer(&CertificateDer::from(bytes)) {
            prop_assert!(domain(&peer.id).is_some());
            prop_assert_eq!(peer.public_key.len(), POINT.0);
        }
    }
}
