//! Rules that a test may break on purpose. A rule whose mutation no test notices is
//! not tested.
//!
//! [`broken`] is asked where a rule is kept. Without the feature `mutations` it is a
//! constant `false`, so the product has no trace of it; with it, a thread-local of the
//! simulator answers (`tests/sim`).

macro_rules! mutations {
    ($($(#[doc = $doc:literal])* $variant:ident = $name:literal, $rule:literal;)*) => {
        /// A rule to break.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Mutation { $($(#[doc = $doc])* $variant,)* }

        impl Mutation {
            /// Every mutation.
            pub const ALL: &'static [Mutation] = &[$(Mutation::$variant,)*];
            /// Its name on the simulator's command line.
            pub fn name(self) -> &'static str {
                match self { $(Mutation::$variant => $name,)* }
            }
            /// Where the protocol has the rule: a row of the table "The rules that a
            /// splicer breaks first" by number, or the name of a part.
            pub fn rule_number(self) -> &'static str {
                match self { $(Mutation::$variant => $rule,)* }
            }
            /// What is broken.
            pub fn rule(self) -> &'static str {
                match self { $(Mutation::$variant => concat!($($doc),*),)* }
            }
            /// The mutation of this name.
            pub fn named(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|m| m.name() == name)
            }
        }
    };
}

mutations! {
    /// The destination's first TSval is the stack's own.
    TauZero = "tau-zero", "numbers";
}

/// Whether this thread breaks the rule.
#[cfg(feature = "mutations")]
#[inline]
pub fn broken(m: Mutation) -> bool {
    BROKEN.get() == Some(m)
}

/// Whether this thread breaks the rule: never.
#[cfg(not(feature = "mutations"))]
#[inline(always)]
pub const fn broken(_: Mutation) -> bool {
    false
}

#[cfg(feature = "mutations")]
thread_local! {
    static BROKEN: std::cell::Cell<Option<Mutation>> = const { std::cell::Cell::new(None) };
}

/// Breaks one rule on this thread, or none.
#[cfg(feature = "mutations")]
pub fn set(m: Option<Mutation>) {
    BROKEN.set(m);
}
