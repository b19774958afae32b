//! Which arms are measured: those that are asked for, those that are here, and the one that ratios are to.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::arm::{self, Arm, Instance, Setting};
use crate::report::Entry;

/// Which arm ratios are to, the first of these that is here, unless the user says.
const BASELINES: [&str; 3] = ["runc", "crun", "process"];

/// The arms that are asked for.
pub(super) fn names(asked: &[String], baseline: Option<&String>) -> Result<Vec<String>> {
    let known: Vec<&str> = arm::names().collect();
    let list = if asked.is_empty() {
        known.iter().map(|name| (*name).to_owned()).collect()
    } else {
        asked.to_vec()
    };
    for name in list.iter().chain(baseline) {
        if !known.contains(&name.as_str()) {
            bail!("there is no arm named {name}; there are {}", known.join(", "));
        }
    }
    if let Some(baseline) = baseline
        && !list.contains(baseline)
    {
        bail!("the baseline {baseline} is not among the arms {}", list.join(", "));
    }
    let mut chosen: Vec<String> = vec![];
    for name in list {
        if !chosen.contains(&name) {
            chosen.push(name);
        }
    }
    Ok(chosen)
}

/// Finds the arms on this host.
pub(super) fn open(names: &[String], setting: &Setting<'_>) -> (Vec<Entry>, Vec<Box<dyn Arm>>) {
    let (mut entries, mut arms) = (vec![], vec![]);
    for name in names {
        let mut entry = Entry::absent(name);
        match arm::open(name, setting) {
            Ok(arm) => {
                let command = arm.command(&Instance { name: "NAME".to_owned() });
                entry.place = Ok(arms.len());
                entry.version = Some(arm.version());
                entry.command_line = Some(arm::describe(&command));
                entry.prepared = arm.prepared();
                arms.push(arm);
            }
            Err(absent) => entry.place = Err(absent.0),
        }
        entries.push(entry);
    }
    (entries, arms)
}

/// The arm that ratios are to: the one that is asked for, or the first usual one that is here.
pub(super) fn baseline(asked: Option<&String>, entries: &[Entry]) -> Result<Option<String>> {
    let find = |name: &str| entries.iter().find(|entry| entry.name == name);
    if let Some(name) = asked {
        if let Some(Err(why)) = find(name).map(|entry| &entry.place) {
            bail!("the baseline {name} cannot be measured here: {why}");
        }
        return Ok(Some(name.clone()));
    }
    let is_here = |name: &&str| find(name).is_some_and(|entry| entry.place.is_ok());
    Ok(BASELINES.into_iter().find(|name| is_here(name)).map(str::to_owned))
}

/// A directory of this run, removed with it.
pub(super) struct Directory(pub(super) PathBuf);

impl Directory {
    pub(super) fn new() -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let base = if Path::new("/run").is_dir() && rustix::process::geteuid().is_root() {
            PathBuf::from("/run")
        } else {
            std::env::temp_dir()
        };
        let path = base.join(format!("vmm-contrast-{}", std::process::id()));
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Nothing is left to do about one that stays.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
