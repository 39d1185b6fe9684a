//! Whether the machine has the hugepages that the EAL will ask for.

use std::fs;
use std::io;
use std::path::Path;

/// The hugepages of one size, over all NUMA nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hugepages {
    /// Bytes per page.
    pub page_bytes: u64,
    /// Pages that the kernel has set aside.
    pub total: u64,
    /// Pages that nobody uses or has reserved.
    pub free: u64,
}

impl Hugepages {
    /// Bytes in free pages.
    pub fn free_bytes(&self) -> u64 {
        self.page_bytes.saturating_mul(self.free)
    }
}

/// The hugepages of each size that the kernel knows, smallest first; empty on a
/// kernel without them.
///
/// # Errors
/// `/sys/kernel/mm/hugepages` exists but cannot be read.
pub fn hugepages() -> io::Result<Vec<Hugepages>> {
    read(Path::new("/sys/kernel/mm/hugepages"))
}

/// Checks that at least `bytes` are free in hugepages of one size, and says
/// otherwise what there is and what to do, in one line.
///
/// # Errors
/// That line.
pub fn enough_hugepages(bytes: u64) -> Result<(), String> {
    match hugepages() {
        Ok(sizes) => judge(&sizes, bytes),
        Err(e) => Err(format!(
            "the kernel's hugepage counters cannot be read: {e}"
        )),
    }
}

fn judge(sizes: &[Hugepages], bytes: u64) -> Result<(), String> {
    if sizes.iter().any(|s| s.free_bytes() >= bytes) {
        return Ok(());
    }
    let Some(smallest) = sizes.first() else {
        return Err("this kernel has no hugepages".to_owned());
    };
    let have: Vec<String> = sizes
        .iter()
        .map(|s| {
            format!(
                "{} of {} pages of {} KiB",
                s.free,
                s.total,
                s.page_bytes >> 10
            )
        })
        .collect();
    let missing = bytes.div_ceil(smallest.page_bytes) - smallest.free;
    Err(format!(
        "{} MiB of hugepages are needed and {} are free; \
         `sysctl vm.nr_hugepages={}` sets enough aside",
        bytes.div_ceil(1 << 20),
        have.join(", "),
        smallest.total + missing,
    ))
}

fn read(root: &Path) -> io::Result<Vec<Hugepages>> {
    let entries = match fs::read_dir(root) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut sizes = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let kib = name.to_str().and_then(|n| {
            n.strip_prefix("hugepages-")?
                .strip_suffix("kB")?
                .parse::<u64>()
                .ok()
        });
        let Some(kib) = kib else { continue };
        let number = |file: &str| -> io::Result<u64> {
            let text = fs::read_to_string(entry.path().join(file))?;
            text.trim()
                .parse()
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
        };
        // Reserved pages count as free in the kernel's file but are promised.
        let free = number("free_hugepages")?.saturating_sub(number("resv_hugepages")?);
        sizes.push(Hugepages {
            page_bytes: kib << 10,
            total: number("nr_hugepages")?,
            free,
        });
    }
    sizes.sort_by_key(|s| s.page_bytes);
    Ok(sizes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn reads_the_kernels_files() {
        let root = tempfile::tempdir().unwrap();
        for (size, total, free, reserved) in [(1048576, 1, 0, 0), (2048, 128, 100, 20)] {
            let dir = root.path().join(format!("hugepages-{size}kB"));
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join("nr_hugepages"), format!("{total}\n")).unwrap();
            fs::write(dir.join("free_hugepages"), format!("{free}\n")).unwrap();
            fs::write(dir.join("resv_hugepages"), format!("{reserved}\n")).unwrap();
        }
        let sizes = read(root.path()).unwrap();
        assert_eq!(
            sizes[0],
            Hugepages {
                page_bytes: 2 * MIB,
                total: 128,
                free: 80
            }
        );
        assert_eq!(
            sizes[1],
            Hugepages {
                page_bytes: 1024 * MIB,
                total: 1,
                free: 0
            }
        );
        assert!(read(&root.path().join("none")).unwrap().is_empty());
    }

    #[test]
    fn says_what_is_missing() {
        let sizes = [Hugepages {
            page_bytes: 2 * MIB,
            total: 128,
            free: 80,
        }];
        assert_eq!(judge(&sizes, 160 * MIB), Ok(()));
        let said = judge(&sizes, 161 * MIB).unwrap_err();
        assert!(
            said.contains("161 MiB") && said.contains("nr_hugepages=129"),
            "{said}"
        );
        assert!(judge(&[], 1).is_err());
    }
}
