//! The system calls that a container has: those that docker allows without further capabilities.
//!
//! Docker's list has several hundred of them, and what is not on it fails with EPERM. It is shorter said the other
//! way round: of the calls up to [`LAST`] all but [`REFUSED`]. Calls that are newer than that are refused
//! like all that are not known.

use std::collections::BTreeMap;

use libc::c_long;
use rustix::io::Errno;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, sock_filter,
};

/// The last call that is known here: `mseal`.
const LAST: c_long = 462;
/// Kernel modules, clocks, swap, mounts, namespaces, tracing of the kernel, keys (which have no namespace),
/// memory policies, rings that make calls past a filter, and what only old programs know.
const REFUSED: &[c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_get_mempolicy,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_mbind,
    libc::SYS_migrate_pages,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_move_pages,
    libc::SYS_nfsservctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_madvise,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_set_mempolicy,
    libc::SYS_set_mempolicy_home_node,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
    // statmount, listmount, and those of security modules.
    457,
    458,
    459,
    460,
    461,
];
/// Those that x86_64 has besides: uselib, ustat, sysfs, _sysctl, iopl, ioperm, create_module, get_kernel_syms
/// and query_module. Other architectures do not have them.
const REFUSED_ON_X86_64: &[c_long] = &[134, 136, 139, 156, 172, 173, 174, 177, 178];

/// CLONE_NEW..., all that clone knows.
const NEW_NAMESPACES: [u64; 7] = [1 << 17, 1 << 25, 1 << 26, 1 << 27, 1 << 28, 1 << 29, 1 << 30];
/// Execution domains of ordinary programs: Linux, with 32 bit addresses or none randomised, and the question.
const PERSONALITIES: [u64; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];
const AF_VSOCK: u64 = 40;

/// Filters that hold together.
#[derive(Debug)]
pub struct Filters([BpfProgram; 2]);

impl Filters {
    /// Puts them on this thread and all it will start, which gains nothing by set-user-ID programs any more. Takes
    /// no memory.
    ///
    /// # Errors
    /// The kernel has no filters.
    pub fn install(&self) -> Result<(), Errno> {
        let apply = |filter: &BpfProgram| seccompiler::apply_filter(filter);
        self.0.iter().try_for_each(apply).map_err(|_| Errno::OPNOTSUPP)
    }
}

/// The filters; of what they say the strictest counts.
///
/// # Errors
/// There is none for this architecture.
pub fn docker() -> Result<Filters, BackendError> {
    Ok(Filters([by_number(), by_argument()?]))
}

/// Codes of instructions, `linux/bpf_common.h`.
const LOAD: u16 = 0x20;
const IF_EQUAL: u16 = 0x15;
const IF_GREATER_OR_EQUAL: u16 = 0x35;
const ALWAYS: u16 = 0x05;
const RETURN: u16 = 0x06;
/// Calls that are compared one after the other.
const LEAF: usize = 4;

/// Refuses the calls listed above and what is beyond [`LAST`], and with it all of the x32 ABI, whose numbers are
/// huge. What `clone3` is for no filter can see, so it is absent, and the C library takes `clone`.
///
/// The kernel runs a filter for every number there is when it is installed, and a plain list of these calls
/// would cost a tenth of the whole start. So it is a search tree, which the compiler used below does not make.
fn by_number() -> BpfProgram {
    let number = |call| u32::try_from(call).unwrap_or(0);
    let mut calls: Vec<u32> =
        REFUSED.iter().chain(refused_too()).map(|call| number(*call)).collect();
    calls.sort_unstable();
    let mut program = vec![
        step(LOAD, 0, 0),
        step(IF_EQUAL, 2, number(libc::SYS_clone3)),
        step(IF_GREATER_OR_EQUAL, 2, number(LAST + 1)),
        // Around the answers.
        step(ALWAYS, 0, 2),
        answer(refuse(libc::ENOSYS)),
        answer(refuse(libc::EPERM)),
    ];
    program.extend(search(&calls));
    program
}

/// What is refused on this architecture alone.
fn refused_too() -> &'static [c_long] {
    if std::env::consts::ARCH == "x86_64" { REFUSED_ON_X86_64 } else { &[] }
}

/// Refuses any of `calls`, which are sorted, and allows all others.
fn search(calls: &[u32]) -> BpfProgram {
    let (low, high) = calls.split_at(calls.len() / 2);
    let Some(middle) = high.first().filter(|_| calls.len() > LEAF) else {
        // Over those that follow and over the answer that allows.
        let compare = |(index, call): (u8, &u32)| step(IF_EQUAL, index, *call);
        let mut program: BpfProgram = (1..).zip(calls.iter().rev()).map(compare).collect();
        program.reverse();
        program.extend([answer(SeccompAction::Allow), answer(refuse(libc::EPERM))]);
        return program;
    };
    let low = search(low);
    let over_low = u8::try_from(low.len()).unwrap_or(u8::MAX);
    let mut program = vec![step(IF_GREATER_OR_EQUAL, over_low, *middle)];
    program.extend(low);
    program.extend(search(high));
    program
}

fn step(code: u16, skip: u8, k: u32) -> sock_filter {
    sock_filter { code, jt: skip, jf: 0, k }
}

fn answer(action: SeccompAction) -> sock_filter {
    step(RETURN, 0, action.into())
}

fn refuse(errno: i32) -> SeccompAction {
    SeccompAction::Errno(errno.unsigned_abs())
}

/// Refuses three calls for some of their arguments, and any other ABI of the processor.
fn by_argument() -> Result<BpfProgram, BackendError> {
    use SeccompCmpOp::{Eq, MaskedEq, Ne};
    let first =
        |operation, value| SeccompCondition::new(0, SeccompCmpArgLen::Dword, operation, value);
    let namespaces =
        NEW_NAMESPACES.map(|flag| SeccompRule::new(vec![first(MaskedEq(flag), flag)?]));
    let vsock = SeccompRule::new(vec![first(Eq, AF_VSOCK)?])?;
    let strange = PERSONALITIES.map(|value| first(Ne, value));
    let strange = SeccompRule::new(strange.into_iter().collect::<Result<_, _>>()?)?;
    let rules = BTreeMap::from([
        (libc::SYS_clone, namespaces.into_iter().collect::<Result<_, _>>()?),
        (libc::SYS_socket, vec![vsock]),
        (libc::SYS_personality, vec![strange]),
    ]);
    let arch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, SeccompAction::Allow, refuse(libc::EPERM), arch)?.try_into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the first filter says to a number.
    fn run(number: u32) -> u32 {
        let (program, mut at) = (by_number(), 0);
        loop {
            let step = &program[at];
            at += 1;
            match step.code {
                LOAD => assert_eq!(step.k, 0, "the number"),
                ALWAYS => at += usize::try_from(step.k).unwrap(),
                IF_EQUAL if number == step.k => at += usize::from(step.jt),
                IF_GREATER_OR_EQUAL if number >= step.k => at += usize::from(step.jt),
                IF_EQUAL | IF_GREATER_OR_EQUAL => at += usize::from(step.jf),
                RETURN => return step.k,
                other => panic!("{other:x}"),
            }
        }
    }

    #[test]
    fn exactly_the_listed_and_the_unknown_calls_are_refused() {
        let (allowed, refused) = (0x7fff_0000, 0x0005_0001);
        for number in 0..=500 {
            let call = c_long::from(number);
            let expected = match call {
                libc::SYS_clone3 => 0x0005_0000 | libc::ENOSYS.unsigned_abs(),
                _ if REFUSED.contains(&call) || refused_too().contains(&call) => refused,
                _ if call > LAST => refused,
                _ => allowed,
            };
            assert_eq!(run(number), expected, "{number}");
        }
        let x32 = 0x4000_0000;
        assert_eq!([x32, x32 | 41, u32::MAX].map(run), [refused; 3]);
    }

    #[test]
    fn installing_it_takes_few_steps() {
        let longest = docker().unwrap().0.map(|program| program.len());
        assert!(longest[0] < 200 && longest[1] < 100, "{longest:?}");
    }
}
