//! Runs the tests of a file with the usual arguments and output, one after the
//! other, in the lab of their group, and takes the lab down at the end, whatever
//! became of them.

use crate::lab::{Family, Lab, Setup};
use libtest_mimic::{Arguments, Failed, Trial};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

/// A test: its name and what it does with the lab.
pub type Case = (&'static str, fn(&Lab));

/// A lab and the tests that share it.
pub struct Group {
    /// How to raise it.
    pub setup: Setup,
    /// Stands behind the names of its tests, to tell groups with the same ones apart.
    pub suffix: &'static str,
    /// The tests that run over both families, in order: all of them over IPv4, then all
    /// over IPv6, with `_v6` behind their names.
    pub cases: Vec<Case>,
    /// Those that have nothing to do with the clients' family, between the two.
    pub once: Vec<Case>,
}

/// A test over one family.
struct Run {
    name: String,
    family: Family,
    case: fn(&Lab),
}

impl Group {
    fn runs(&self) -> Vec<Run> {
        let over = |cases: &[Case], family: Family| -> Vec<Run> {
            let run = |&(name, case): &Case| Run {
                name: format!("{name}{}{}", self.suffix, family.suffix()),
                family,
                case,
            };
            cases.iter().map(run).collect()
        };
        let mut runs = over(&self.cases, Family::V4);
        runs.extend(over(&self.once, Family::V4));
        runs.extend(over(&self.cases, Family::V6));
        runs
    }
}

/// The one lab that is up: its group, and the lab or why there is none.
type Current = Option<(usize, Result<Lab, String>)>;

/// The main function of a test file. A lab is raised when its first test is run
/// and taken down when the next group's is, so a filter raises what it needs only.
#[must_use]
pub fn main(groups: Vec<Group>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    // One machine, one lab at a time.
    arguments.test_threads = Some(1);
    let current: Arc<Mutex<Current>> = Arc::default();
    let mut trials = Vec::new();
    for (number, group) in groups.into_iter().enumerate() {
        for Run { name, family, case } in group.runs() {
            let (current, setup) = (Arc::clone(&current), group.setup.clone());
            trials.push(Trial::test(name, move || {
                let mut current = current.lock().unwrap_or_else(PoisonError::into_inner);
                run(&mut current, number, &setup, family, case)
            }));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    *current.lock().unwrap_or_else(PoisonError::into_inner) = None;
    conclusion.exit_code()
}

fn run(
    current: &mut Current,
    group: usize,
    setup: &Setup,
    family: Family,
    case: fn(&Lab),
) -> Result<(), Failed> {
    if current.as_ref().is_none_or(|(number, _)| *number != group) {
        // First down, then up: two labs at once would compete for memory and cores.
        *current = None;
        *current = Some((group, Lab::up(setup)));
    }
    let Some((_, lab)) = current else {
        return Err("no lab".into());
    };
    let lab = lab
        .as_ref()
        .map_err(|reason| Failed::from(format!("the lab is not up: {reason}")))?;
    catch_unwind(AssertUnwindSafe(|| {
        lab.begin(family);
        case(lab);
    }))
    .map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        Failed::from(text.unwrap_or_else(|| "panicked".into()))
    })
}
