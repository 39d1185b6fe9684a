//! No input makes the reader panic, hang, or answer in more than one line.

use dts_config::parse;
use proptest::prelude::*;

const EXAMPLE: &str = include_str!("../examples/dtsd.yaml");

fn one_line_or_valid(text: &str) {
    if let Err(error) = parse(text, "t.yaml") {
        let message = error.to_string();
        assert_eq!(message.lines().count(), 1, "{message:?}");
        assert!(message.starts_with("t.yaml:"), "{message:?}");
    }
}

/// Pieces that mean something to YAML or to us, so that noise gets somewhere.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "{", "}", "[", "]", ": ", ":", "- ", "? ", "---", "...", "|", ">", "&a ", "*a",
            "!!str ", "%YAML", "#", "\n", "\n  ", "\t", "'", "\"", "\\", ",", "\0", "\u{feff}",
            "\r", "node", "cluster", "services", "0", "65536", "\u{2028}", "-1", "<<", "~",
        ])
        .prop_map(str::to_owned),
        ".{0,8}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bytes(noise in prop::collection::vec(any::<u8>(), 0..300)) {
        one_line_or_valid(&String::from_utf8_lossy(&noise));
    }

    #[test]
    fn pieces(pieces in prop::collection::vec(piece(), 0..40)) {
        one_line_or_valid(&pieces.concat());
    }

    #[test]
    fn example_with_pieces(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0..30_usize, piece()), 1..4),
    ) {
        let mut text: Vec<char> = EXAMPLE.chars().collect();
        for (at, removed, piece) in cuts {
            let at = at.index(text.len());
            let end = (at + removed).min(text.len());
            text.splice(at..end, piece.chars());
        }
        one_line_or_valid(&text.into_iter().collect::<String>());
    }
}

#[test]
fn deep_nesting() {
    for open in ["[", "{a: ", "- ", "? ", "{---"] {
        one_line_or_valid(&open.repeat(20_000));
    }
}
