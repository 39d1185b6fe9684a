//! What an envelope holds, by its kind.

use crate::envelope::Kind;
use crate::membership::errands::Said;
use crate::record::Record;
use crate::schedule::Schedule;

/// What it holds.
#[derive(Default)]
pub(crate) struct Body<'a> {
    pub(crate) swim: Option<&'a [u8]>,
    pub(crate) records: Vec<Record>,
    pub(crate) errand: Option<Said<'a>>,
    pub(crate) schedule: Option<Schedule>,
}

impl<'a> Body<'a> {
    /// `None`: it contradicts itself.
    pub(crate) fn read(kind: Kind, body: &'a [u8]) -> Option<Self> {
        let mut found = Self::default();
        let records = match kind {
            Kind::Wish | Kind::Question | Kind::Answer => {
                found.errand = Some(Said::decode(kind, body)?);
                return Some(found);
            }
            Kind::Schedule => {
                found.schedule = Some(Schedule::decode(body)?);
                return Some(found);
            }
            Kind::Records => body,
            Kind::Swim => {
                let (len, rest) = body.split_at_checked(2)?;
                let len = usize::from(u16::from_be_bytes([len[0], len[1]]));
                let (swim, records) = rest.split_at_checked(len)?;
                found.swim = Some(swim);
                records
            }
        };
        let chunks = records.chunks_exact(Record::LEN);
        if !chunks.remainder().is_empty() {
            return None;
        }
        let records = chunks.map(Record::decode).collect::<Result<_, _>>();
        found.records = records.ok()?;
        Some(found)
    }
}
