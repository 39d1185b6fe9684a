use super::*;
use crate::testkit::Pieces;
use proptest::prelude::*;

proptest! {
    /// Whatever the pieces, the bytes are the same.
    #[test]
    fn pieces_are_the_frame(
        bytes in prop::collection::vec(any::<u8>(), 1..400),
        cuts in prop::collection::vec(1usize..70, 0..12),
        at in 0usize..420, n in 0usize..420, keep in 1usize..420,
    ) {
        let mut f = Pieces::cut(&bytes, &cuts);
        prop_assert_eq!(f.len(), bytes.len());
        prop_assert_eq!(f.to_vec(), bytes.clone());
        let mut out = vec![0; n];
        let whole = bytes.get(at..at + n);
        prop_assert_eq!(f.copy_out(at, &mut out), whole.is_some());
        if let Some(w) = whole {
            prop_assert_eq!(&out[..], w);
        }
        prop_assert_eq!(bytes.copy_out(at, &mut out), whole.is_some());
        f.truncate(keep);
        prop_assert_eq!(f.to_vec(), &bytes[..keep.min(bytes.len())]);
        let kept = Kept::of(&f);
        prop_assert_eq!(kept.bytes.len(), f.len());
    }
}
