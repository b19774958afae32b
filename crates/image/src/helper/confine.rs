//! The walls around what reads a stranger's bytes: no new privileges, no capabilities, limits of
//! resources, only the files it needs, and only the system calls it needs.

use std::collections::BTreeMap;
use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, Scope, path_beneath_rules,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::calls;

/// What a process may still do.
#[derive(Debug, Default)]
pub(super) struct Confinement {
    /// What may be read, with everything below it.
    pub(super) read: Vec<PathBuf>,
    /// Where files may be made, changed and removed.
    pub(super) write: Vec<PathBuf>,
    /// Whether files may be opened at all, beside those that are open.
    pub(super) files: bool,
    /// Whether other hosts may be spoken to.
    pub(super) network: bool,
    /// Whether root may read the files of others.
    pub(super) others_files: bool,
    /// Bytes of address space.
    pub(super) memory: u64,
    /// Bytes of a file that is written.
    pub(super) file_size: u64,
    /// Seconds of processor time.
    pub(super) seconds: u64,
}

/// Why a process cannot be confined.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConfineError {
    #[error("give up privileges: {0}")]
    Privileges(rustix::io::Errno),
    #[error("limit {0:?}: {1}")]
    Limit(Resource, rustix::io::Errno),
    #[error("filter system calls: {0}")]
    Filter(seccompiler::Error),
    #[error("filter system calls: {0}")]
    Backend(seccompiler::BackendError),
}

/// Confines this process, for good.
pub(super) fn enter(what: &Confinement) -> Result<(), ConfineError> {
    limit(what)?;
    rustix::thread::set_no_new_privs(true).map_err(ConfineError::Privileges)?;
    // Kernels without Landlock, or with an old one, are not refused: the other walls stand there too.
    let _: Result<(), RulesetError> = restrict_files(what);
    drop_capabilities(what).map_err(ConfineError::Privileges)?;
    for filter in [no_clone3()?, filter(what)?] {
        seccompiler::apply_filter_all_threads(&filter).map_err(ConfineError::Filter)?;
    }
    Ok(())
}

fn limit(what: &Confinement) -> Result<(), ConfineError> {
    let limits = [
        (Resource::Core, 0),
        (Resource::As, what.memory),
        (Resource::Fsize, what.file_size),
        (Resource::Cpu, what.seconds),
        (Resource::Nofile, 512),
    ];
    for (resource, value) in limits {
        let most = getrlimit(resource).maximum.map_or(value, |maximum| maximum.min(value));
        let both = Rlimit { current: Some(most), maximum: Some(most) };
        setrlimit(resource, both).map_err(|errno| ConfineError::Limit(resource, errno))?;
    }
    Ok(())
}

fn drop_capabilities(what: &Confinement) -> rustix::io::Result<()> {
    let reading = CapabilitySet::DAC_READ_SEARCH;
    let kept = if what.others_files {
        capabilities(None)?.permitted & reading
    } else {
        CapabilitySet::empty()
    };
    let inheritable = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable })
}

fn restrict_files(what: &Confinement) -> Result<(), RulesetError> {
    let abi = ABI::V6;
    let change = AccessFs::ReadFile
        | AccessFs::ReadDir
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::RemoveFile
        | AccessFs::MakeReg
        | AccessFs::Refer;
    let read: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::ReadDir;
    let mut rules = Ruleset::default()
        // Without it nothing could be renamed from one directory to another.
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::Refer)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))?
        .scope(Scope::from_all(abi))?;
    if !what.network {
        rules = rules.handle_access(AccessNet::from_all(abi))?;
    }
    let rules = rules.create()?.add_rules(path_beneath_rules(&what.read, read))?;
    rules.add_rules(path_beneath_rules(&what.write, change))?.restrict_self()?;
    Ok(())
}

/// Lets `clone3` be absent, because a filter cannot see what it is for: the C library takes `clone` instead.
fn no_clone3() -> Result<BpfProgram, ConfineError> {
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    compile(rules, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS.unsigned_abs()))
}

/// Allows the listed calls, and fails any other with `EPERM`.
fn filter(what: &Confinement) -> Result<BpfProgram, ConfineError> {
    let mut lists = vec![calls::ALWAYS];
    if what.files {
        lists.extend([calls::FILES, on_x86_64(calls::FILES_ON_X86_64)]);
    }
    if what.network {
        lists.extend([calls::NETWORK, on_x86_64(calls::NETWORK_ON_X86_64)]);
    }
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        lists.into_iter().flatten().map(|call| (*call, Vec::new())).collect();
    let sockets = if what.network { &[libc::FIONBIO, libc::FIONREAD][..] } else { &[] };
    rules
        .insert(libc::SYS_ioctl, requests([libc::TCGETS, libc::TIOCGWINSZ].iter().chain(sockets))?);
    rules.insert(libc::SYS_clone, vec![threads_alone()?]);
    let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    compile(rules, refuse, SeccompAction::Allow)
}

/// Numbers that mean something else, or nothing, on other architectures.
fn on_x86_64(calls: &[i64]) -> &[i64] {
    if std::env::consts::ARCH == "x86_64" { calls } else { &[] }
}

fn compile(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    others: SeccompAction,
    these: SeccompAction,
) -> Result<BpfProgram, ConfineError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(ConfineError::Backend)?;
    SeccompFilter::new(rules, others, these, arch)
        .and_then(BpfProgram::try_from)
        .map_err(ConfineError::Backend)
}

/// `ioctl` for these requests: the size of a terminal and whether it is one; of sockets, not to wait and
/// how much there is.
fn requests<'a>(list: impl Iterator<Item = &'a u64>) -> Result<Vec<SeccompRule>, ConfineError> {
    let rules = list.map(|request| {
        let equal = SeccompCmpOp::Eq;
        let condition = SeccompCondition::new(1, SeccompCmpArgLen::Dword, equal, *request);
        SeccompRule::new(vec![condition?])
    });
    rules.collect::<Result<_, _>>().map_err(ConfineError::Backend)
}

/// `clone` for threads, not for processes.
fn threads_alone() -> Result<SeccompRule, ConfineError> {
    let thread = u64::from(libc::CLONE_THREAD.unsigned_abs());
    let with = SeccompCmpOp::MaskedEq(thread);
    let condition = SeccompCondition::new(0, SeccompCmpArgLen::Qword, with, thread);
    condition.and_then(|condition| SeccompRule::new(vec![condition])).map_err(ConfineError::Backend)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// I19: where the kernel has Landlock, files outside of the listed directories are out of reach.
    #[test]
    fn files_that_are_not_listed_are_out_of_reach_where_the_kernel_has_landlock() {
        let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let files = directories.each_ref().map(|directory| directory.path().join("file"));
        files.iter().for_each(|file| std::fs::write(file, "x").unwrap());
        let other = directories[0].path().join("other");
        let what =
            Confinement { write: vec![directories[0].path().to_owned()], ..Confinement::default() };
        // The walls are those of one thread.
        let tried = std::thread::spawn(move || {
            let walls = restrict_files(&what).is_ok();
            let own = std::fs::rename(&files[0], &other).and_then(|()| std::fs::read(&other));
            (walls, own.is_ok(), std::fs::read(&files[1]).is_ok())
        });
        let (walls, own, foreign) = tried.join().unwrap();
        assert!(own, "what is listed is there");
        assert_eq!(foreign, !walls, "what is not listed is there without walls alone");
    }
}
