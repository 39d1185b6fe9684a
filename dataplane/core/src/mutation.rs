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
    /// A replay's SYN bears this cluster's clock instead of the client's.
    PawsClock = "paws-clock", "5.1";
    /// A segment from above a hole counts as the last one in order.
    TimestampAboveHole = "timestamp-above-hole", "4";
    /// The acknowledgement at the cut over bears no timestamps.
    NoTimestamps = "no-timestamps", "5.2";
    /// A replay's SYN bears the window as the client scaled it.
    SynWindowScaled = "syn-window-scaled", "5.3";
    /// The window stays shut behind the cut over, as in the paper.
    WindowZero = "window-zero", "4.7";
    /// Windows pass unchanged between stacks of different shifts.
    WindowUnscaled = "window-unscaled", "5.3";
    /// The intake promises what its stack does.
    FirstWindowOff = "first-window-off", "5.4";
    /// A window's rounding takes its right edge back.
    WindowRetreats = "window-retreats", "3";
    /// The filter completes a replayed handshake at once.
    AckAtOnce = "ack-at-once", "5.5";
    /// A SYN's other options and payload reach the stack.
    SynUncleaned = "syn-uncleaned", "5.6";
    /// ECN bits stay on SYNs.
    EcnLeft = "ecn-left", "5.7";
    /// A client's RST ends the FCB at once.
    ResetEnds = "reset-ends", "5.8";
    /// A FIN before K is not replayed.
    FinLost = "fin-lost", "5.9";
    /// A keepalive of the client during a handover gets no answer.
    ProbeLost = "probe-lost", "5.10";
    /// What the client asked before the freeze, and was not answered, stays unanswered.
    AskedForgotten = "asked-forgotten", "5.10";
    /// A keepalive of the stack goes out in its own numbers.
    KeepaliveLeak = "keepalive-leak", "5.20";
    /// An old TIME_WAIT socket is not reset before the replay.
    TimeWaitNotReset = "time-wait-not-reset", "5.12";
    /// Held frames have no cap per flow.
    HoldCapOff = "hold-cap-off", "5.15";
    /// Sequence numbers are compared as plain numbers.
    PlainCompare = "plain-compare", "5.16";
    /// Option 32 passes on the wire.
    Option32Passes = "option32-passes", "5.17";
    /// Link messages need no authenticator.
    Unauthenticated = "unauthenticated", "5.17";
    /// A link message counts as often as it comes.
    ReplayProtectionOff = "replay-protection-off", "5.17";
    /// The paper's bare form is served on a link that is not trusted.
    BareFormServed = "bare-form-served", "5.17";
    /// Segments to application ports on the link reach the host.
    LinkToHost = "link-to-host", "5.19";
    /// FCBs of flows that are over stay.
    EndedStays = "ended-stays", "5.20";
    /// Half-open FCBs stay.
    HalfOpenStays = "half-open-stays", "5.20";
    /// No FCB goes because it is idle.
    IdleStays = "idle-stays", "5.20";
    /// The destination's first TSval is its stack's own.
    TauZero = "tau-zero", "3";
    /// Sequence numbers stay the local stack's.
    DeltaZero = "delta-zero", "3";
    /// SACK edges stay the client's.
    SackUnshifted = "sack-unshifted", "3";
    /// A TSecr of 0 is translated like any other.
    TsecrZeroShifted = "tsecr-zero-shifted", "3";
    /// Acknowledgements that the stack cannot have earned reach it.
    AckUnclamped = "ack-unclamped", "3";
    /// D-SACK blocks below K reach the client.
    DsackLeft = "dsack-left", "3";
    /// What the client offered counts as agreed.
    OptionsOffered = "options-offered", "3";
    /// The numbers in quoted segments stay the client's.
    IcmpUntranslated = "icmp-untranslated", "3";
    /// Acknowledgements may be taken back after the cut over.
    AckTakenBack = "ack-taken-back", "3";
    /// TCP behind an IPv6 extension header is not TCP.
    ExtensionsOpaque = "extensions-opaque", "2";
    /// Routing headers that are not spent are walked like others.
    RoutingWalked = "routing-walked", "2";
    /// A damaged SYN opens a flow.
    DamagedSyn = "damaged-syn", "2";
    /// What a host sends without an FCB leaves.
    NoDefaultDrop = "no-default-drop", "2";
    /// An owner that lost the handshake gives the client's ACK to its stack.
    MismatchToStack = "mismatch-to-stack", "2";
    /// What the client sends is copied only from the freeze on.
    NoCopies = "no-copies", "4.2";
    /// What was acknowledged is not held against what was drained.
    DrainUnchecked = "drain-unchecked", "4.3";
    /// The destination accepts before its stack has acknowledged anything.
    AcceptEarly = "accept-early", "4.6";
    /// The source forwards nothing of what it held.
    HeldLost = "held-lost", "4.7";
    /// Bytes below K are given to the stack again.
    BelowCut = "below-cut", "4.7";
    /// Copies that came twice are given twice.
    GivenTwice = "given-twice", "4.7";
    /// A copied last byte of the request is taken for a keepalive.
    CopyAsProbe = "copy-as-probe", "4.7";
    /// An acknowledgement of nothing but replayed bytes goes out.
    ReplayedAckLeft = "replayed-ack-left", "3";
    /// Segments from above a hole do not wait for what is forwarded.
    HoleUnfilled = "hole-unfilled", "4.7";
    /// Nothing acknowledges K until the application speaks.
    NoAckOfCut = "no-ack-of-cut", "4.7";
    /// Held frames are not verified.
    HeldUnverified = "held-unverified", "4.2";
    /// Nothing is unfrozen with the newest swallowed segment.
    SwallowedLost = "swallowed-lost", "4";
    /// Held frames do not come back when a handover fails.
    UnfreezeEmpty = "unfreeze-empty", "4";
    /// Answers are not remembered.
    AnswersForgotten = "answers-forgotten", "4";
    /// Refusals are not told.
    RefusalSilent = "refusal-silent", "4";
    /// A message for an earlier incarnation is taken.
    IncarnationUnchecked = "incarnation-unchecked", "4";
    /// Another incarnation's refusal counts as proof, though the splice was repeated.
    IncarnationTrusted = "incarnation-trusted", "4";
    /// An abort is confirmed although the stack has the request.
    AbortConfirmed = "abort-confirmed", "4";
    /// A handover is refused although the stack has acknowledged the request.
    RefusedTooLate = "refused-too-late", "4";
    /// An unknown outcome counts as a failure: the proxy asks another node.
    UnknownRepeated = "unknown-repeated", "4";
    /// The client of an unknown outcome is not reset.
    UnknownSilent = "unknown-silent", "4";
    /// The client's own acknowledgement proves nothing.
    ProofIgnored = "proof-ignored", "4";
    /// A flow that was handed over leaves nothing behind.
    NoTombstone = "no-tombstone", "6";
    /// The end of a flow is not told to its intake.
    EndUntold = "end-untold", "6";
    /// A node that has a flow again forgets who brought it the first time.
    EarlierForgotten = "earlier-forgotten", "6";
    /// A node that refuses a flow which it had before forgets it.
    RefusalForgets = "refusal-forgets", "6";
    /// Clients of a node that is gone are not reset.
    OrphansHang = "orphans-hang", "6";
    /// An owner resets the client of a flow that it does not have without asking who does.
    OrphansUnasked = "orphans-unasked", "6";
    /// A SYN inside a live flow lets everything out, not the challenge alone.
    ChallengeOff = "challenge-off", "6";
    /// New data of a flow that is not here, with the numbers of the acknowledgement before
    /// them, count as repeated.
    OrphansByNumber = "orphans-by-number", "6";
    /// A handover is repeated although the client has seen some of the answer.
    RepeatAfterAnswer = "repeat-after-answer", "repeat";
    /// The next destination's clock starts where the dead one's did.
    RepeatClockBack = "repeat-clock-back", "repeat";
    /// What the client sent behind the request is not repeated.
    RepeatForgetsLater = "repeat-forgets-later", "repeat";
    /// A client whose handover is about to be repeated is reset as an orphan.
    OrphanBeforeRepeat = "orphan-before-repeat", "repeat";
    /// The urgent pointer stays where it was when bytes before it are cut off.
    UrgentUnmoved = "urgent-unmoved", "5.11";
    /// A drain does not compare what the kernel received with what it found (the daemon's
    /// rule, broken in the simulator's).
    UrgentUnchecked = "urgent-unchecked", "5.11";
    /// An acknowledgement storm goes on.
    StormGoesOn = "storm-goes-on", "5.13";
    /// The breaker takes the first repeated acknowledgement for a storm.
    StormAtOnce = "storm-at-once", "5.13";
    /// Fragments of TCP to a VIP pass.
    FragmentsPass = "fragments-pass", "5.14";
    /// A worker's buffers for held frames grow as needed.
    HoldGrows = "hold-grows", "5.15";
    /// Only the first link key is valid.
    FirstKeyOnly = "first-key-only", "5.18";
    /// A splice port is used again at once.
    PortAtOnce = "port-at-once", "5.19";
    /// A flow whose socket is gone lives on.
    SocketGoneStays = "socket-gone-stays", "5.20";
    /// Every node answers a solicitation for a VIP.
    EveryoneAdvertises = "everyone-advertises", "2";
    /// What a client says that opened anew reaches the stack of its old connection.
    AnewToOld = "anew-to-old", "6";
    /// A SYN inside a live flow silences it until the client speaks.
    ChallengeForever = "challenge-forever", "6";
    /// A minority owns what the others answer for.
    MinorityOwns = "minority-owns", "membership";
    /// Members that are dead keep their buckets.
    DeadKeepBuckets = "dead-keep-buckets", "membership";
    /// A node gives its buckets away before the new owners can know.
    GivenAwayAtOnce = "given-away-at-once", "membership";
    /// Nobody asks those who are not there to come back (the daemon's rule, broken in the
    /// simulator's).
    NeverAnnounced = "never-announced", "membership";
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
