//! The cases: probes, many in one container, and processes that need one of their own.

use super::bundle::{Options, PLAIN};

/// Begins the output of a probe.
pub const PROBE: &str = "@@ ";

/// Probes that look at the same container.
pub struct Group {
    pub name: &'static str,
    pub options: Options,
    /// Name and script.
    pub probes: &'static [(&'static str, &'static str)],
}

/// A process whose end or streams are looked at.
pub struct Alone {
    pub name: &'static str,
    pub options: Options,
    pub command: &'static [&'static str],
    /// Its input, so many times.
    pub input: (&'static [u8], usize),
    pub look: Look,
}

/// What is compared.
pub enum Look {
    /// Exit status and both streams.
    All,
    /// Exit status, and whether anything was said about it.
    Status,
}

impl Alone {
    pub fn input(&self) -> Vec<u8> {
        self.input.0.repeat(self.input.1)
    }
}

const SHELL: Alone =
    Alone { name: "", options: PLAIN, command: &[], input: (b"", 0), look: Look::All };
const TALKER: Options = Options { stdin: true, ..PLAIN };

/// Every byte, in an order that no conversion survives.
static BYTES: [u8; 256] = {
    let mut bytes = [0; 256];
    let mut at = 0;
    while at < 256 {
        bytes[at] = (at as u8).wrapping_mul(167);
        at += 1;
    }
    bytes
};

/// Processes that need a container of their own.
pub const ALONE: &[Alone] = &[
    Alone { name: "exit status 0", command: &["true"], ..SHELL },
    Alone {
        name: "exit status 42",
        command: &["sh", "-c", "echo out; echo err >&2; exit 42"],
        ..SHELL
    },
    Alone { name: "exit status 255", command: &["sh", "-c", "exit 255"], ..SHELL },
    Alone { name: "missing command", command: &["no-such-command"], look: Look::Status, ..SHELL },
    Alone { name: "missing path", command: &["/no/such/path"], look: Look::Status, ..SHELL },
    Alone { name: "directory as command", command: &["/etc"], look: Look::Status, ..SHELL },
    Alone {
        name: "file that is no program",
        command: &["/etc/passwd"],
        look: Look::Status,
        ..SHELL
    },
    Alone {
        name: "standard input and its end",
        options: TALKER,
        command: &["sh", "-c", "cat; echo ended"],
        input: (b"one\ntwo", 1),
        ..SHELL
    },
    Alone {
        name: "every byte, in and out",
        options: TALKER,
        command: &["cat"],
        input: (&BYTES, 4096),
        ..SHELL
    },
    Alone {
        name: "input that is not read",
        options: TALKER,
        command: &["sh", "-c", "read line; echo $line; exit 3"],
        input: (b"0123456789abcdef\n", 65_536),
        ..SHELL
    },
    Alone { name: "empty standard input", command: &["sh", "-c", "cat; echo $?"], ..SHELL },
    Alone {
        name: "10 MiB of output",
        command: &["sh", "-c", "yes 0123456789abcde | head -c 10485760"],
        ..SHELL
    },
    Alone {
        name: "both streams at once",
        command: &["sh", "-c", "yes out | head -c 1000000 & yes err | head -c 1000000 >&2; wait"],
        ..SHELL
    },
    Alone {
        name: "out of memory",
        options: Options { memory_mib: 32, ..PLAIN },
        command: &["dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"],
        look: Look::All,
        ..SHELL
    },
    Alone {
        name: "orphans whose end is awaited",
        command: &[
            "sh",
            "-c",
            "for n in 1 2 3; do sh -c 'sleep 0.2 &'; done; sleep 1; grep -l 'State:.Z' /proc/[0-9]*/status; \
             set -- /proc/[0-9]*; echo $#",
        ],
        ..SHELL
    },
    Alone {
        name: "children end with the first process",
        command: &["sh", "-c", "sleep 1000 & (trap '' HUP TERM; sleep 1000) & exit 9"],
        ..SHELL
    },
];

/// Probes.
pub const GROUPS: &[Group] = &[
    Group {
        name: "root",
        options: PLAIN,
        probes: &[
            ("user and groups", "id"),
            ("supplementary groups", "grep Groups /proc/self/status"),
            ("working directory", "pwd"),
            ("umask", "umask; touch /tmp/u; stat -c %a /tmp/u"),
            ("environment", "unset LC_ALL; env -u PWD -u SHLVL | sort"),
            ("host name", "hostname; cat /etc/hostname"),
            ("capabilities", "grep Cap /proc/self/status"),
            ("new privileges", "grep NoNewPrivs /proc/self/status"),
            ("open files limit", "ulimit -n; ulimit -Hn"),
            (
                "other limits",
                "grep -E 'cpu|file size|data|stack|core|processes|locks|nice|priority' /proc/self/limits",
            ),
            ("devices", "ls /dev"),
            (
                "device nodes",
                "cd /dev; stat -c '%n %F %t:%T %a %u:%g' null zero full random urandom tty",
            ),
            (
                "device links",
                "cd /dev; for l in fd stdin stdout stderr ptmx core; do readlink $l; done",
            ),
            (
                "device modes",
                "stat -c '%n %a %u:%g' /dev /dev/pts /dev/shm /dev/mqueue /dev/pts/ptmx",
            ),
            ("null and zero", "echo x > /dev/null; head -c 4 /dev/zero | od"),
            ("full", "echo x > /dev/full"),
            ("random", "head -c 9 /dev/urandom | wc -c; head -c 9 /dev/random | wc -c"),
            (
                "shared memory",
                "df -k /dev/shm | tail -n 1 | awk '{print $2}'; echo x > /dev/shm/x; ls /dev/shm",
            ),
            ("no terminal", "tty; echo x > /dev/tty"),
            (
                "mounts of the kernel",
                "for p in /proc /sys /dev /dev/pts /dev/shm /dev/mqueue; do grep \" $p \" /proc/mounts | cut -d' ' -f2-4 | sed 's/,inode64//;s/,seclabel//'; done",
            ),
            ("control groups", "cat /proc/self/cgroup; mkdir /sys/fs/cgroup/x"),
            ("memory limit", "cat /sys/fs/cgroup/memory.max"),
            ("kernel parameters are read-only", "echo x > /proc/sys/kernel/domainname"),
            (
                "kernel parameters",
                "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range",
            ),
            ("sysfs is read-only", "mkdir /sys/x; echo 1 > /sys/kernel/profiling"),
            ("sysrq", "echo h > /proc/sysrq-trigger"),
            (
                "hidden files",
                "wc -c < /proc/kcore; wc -c < /proc/timer_list; wc -c < /proc/interrupts",
            ),
            (
                "hidden directories",
                "ls /sys/firmware /proc/acpi /proc/scsi 2>/dev/null | grep -v :",
            ),
            ("first process", "echo $$; cat /proc/1/comm; awk '{print $4, $5, $6}' /proc/1/stat"),
            ("processes seen", "set -- /proc/[0-9]*; echo $#"),
            ("descriptors", "ls /proc/$$/fd"),
            (
                "signals",
                "for set in SigIgn SigBlk; do x=$(grep $set /proc/1/status | cut -f 2); echo $((0x$x & 0x7fffffff)); done",
            ),
            ("out of memory score", "cat /proc/self/oom_score_adj"),
            ("priority", "awk '{print $18, $19}' /proc/self/stat; renice -n -5 -p $$"),
            ("execution domain", "cat /proc/self/personality"),
            ("node of an allowed device", "mknod /tmp/n c 1 5 && head -c 2 /tmp/n | od"),
            ("node of a disk", "mknod /tmp/b b 254 0 && head -c 2 /tmp/b"),
            ("node of memory", "mknod /tmp/m c 1 1 && head -c 2 /tmp/m"),
            ("mounting", "mkdir -p /mnt; mount -t tmpfs none /mnt"),
            ("unmounting", "umount /proc"),
            ("changing the root", "chroot / true"),
            ("changing owners", "touch /tmp/f; chown 5:6 /tmp/f; stat -c %u:%g /tmp/f"),
            ("changing the host name", "hostname other"),
            ("setting the clock", "date -s @0 > /dev/null"),
            ("switching off", "reboot -f"),
            ("interfaces", "ls /sys/class/net; ip -o -4 addr show lo | awk '{print $4}'"),
            ("loopback", "ping -c 1 -W 5 127.0.0.1 > /dev/null; echo $?"),
            ("no way out", "ping -c 1 -W 1 192.0.2.1"),
            ("listening on a low port", "nc -l -p 80 -w 1 < /dev/null"),
            ("writing to the root", "echo a > /x; mkdir /y; mv /x /y/x; cat /y/x; rm -r /y"),
            (
                "removing what the image has",
                "rm /etc/shadow; ls /etc/shadow; echo new > /etc/shadow; cat /etc/shadow",
            ),
            (
                "owners and modes of the image",
                "stat -c '%n %F %a %u:%g' /bin /etc /etc/passwd /home/user /root /tmp",
            ),
            ("hard links of the image", "stat -c %h /bin/busybox"),
            (
                "orphans have another parent",
                "(sleep 0.2 & echo $! > /tmp/p); awk '{print $4}' /proc/$(cat /tmp/p)/stat",
            ),
            ("signal from inside to the first process", "kill -TERM 1; kill -KILL 1; echo alive"),
            ("processors", "nproc"),
        ],
    },
    Group {
        name: "user",
        options: Options { user: Some(("user", 1000, 1000, &[29, 50])), ..PLAIN },
        probes: &[
            ("user and groups", "id; echo $HOME"),
            ("capabilities", "grep Cap /proc/self/status"),
            (
                "own files only",
                "cat /etc/shadow; ls /root; touch /x; touch /home/user/x && echo own",
            ),
            ("devices", "echo x > /dev/null; head -c 2 /dev/zero | od; mknod /tmp/n c 1 3"),
            ("changing owners", "touch /tmp/f; chown 0 /tmp/f"),
            ("signals to root", "kill -0 1; echo $?"),
            ("ping", "ping -c 1 -W 5 127.0.0.1 > /dev/null; echo $?"),
            ("low port", "timeout 1 nc -l -p 80; echo $?"),
            ("standard streams", "echo x > /dev/stdout; echo y > /dev/stderr"),
        ],
    },
    Group {
        name: "user and group",
        options: Options { user: Some(("user:www-data", 1000, 33, &[])), ..PLAIN },
        probes: &[("user and groups", "id; echo $HOME")],
    },
    Group {
        name: "unknown number",
        options: Options { user: Some(("4242", 4242, 0, &[])), ..PLAIN },
        probes: &[("user and groups", "id; echo $HOME")],
    },
    Group {
        name: "read-only",
        options: Options {
            read_only: true,
            tmpfs: Some(("/scratch", &["size=1m", "mode=700"])),
            ..PLAIN
        },
        probes: &[
            ("root", "touch /x; mkdir /tmp/x; rm /bin/sh"),
            (
                "files of the engine",
                "echo x >> /etc/hosts; echo x >> /etc/resolv.conf; echo x >> /etc/hostname",
            ),
            (
                "devices",
                "echo x > /dev/null; touch /dev/shm/x && echo made; touch /dev/x && echo made",
            ),
            (
                "tmpfs",
                "stat -c '%a %u:%g' /scratch; df -k /scratch | tail -n 1 | awk '{print $2}'; echo x > /scratch/x; cat /scratch/x",
            ),
            ("tmpfs is full", "head -c 2000000 /dev/zero > /scratch/y; stat -c %s /scratch/y"),
            ("tmpfs runs nothing", "cp /bin/busybox /scratch/busybox; /scratch/busybox true"),
            (
                "options of the tmpfs",
                "grep /scratch /proc/mounts | cut -d' ' -f2-4 | sed 's/,inode64//'",
            ),
            ("remounting", "mount -o remount,rw /"),
        ],
    },
    Group {
        name: "environment and directory",
        options: Options {
            env: &["A=1", "B=two words  $x", "EMPTY=", "C=a=b", "HOME=/nowhere"],
            workdir: Some("/new/directory"),
            ..PLAIN
        },
        probes: &[
            ("variables", "unset LC_ALL; env -u PWD -u SHLVL | sort"),
            ("made directory", "pwd; stat -c '%a %u:%g' /new /new/directory"),
        ],
    },
    Group {
        name: "few capabilities",
        options: Options { cap_drop_all: true, cap_add: &["CHOWN", "SETUID"], ..PLAIN },
        probes: &[
            ("sets", "grep Cap /proc/self/status"),
            ("what is left works", "touch /tmp/f; chown 5:5 /tmp/f; stat -c %u:%g /tmp/f"),
            (
                "what is gone fails",
                "mknod /tmp/n c 1 3; chroot / true; cat /home/user/none; ping -c 1 127.0.0.1 > /dev/null; echo $?",
            ),
        ],
    },
    Group {
        name: "more capabilities",
        options: Options { cap_add: &["SYS_ADMIN", "NET_ADMIN"], ..PLAIN },
        probes: &[
            ("sets", "grep Cap /proc/self/status"),
            ("mounting", "mkdir /m; mount -t tmpfs none /m && echo x > /m/x; cat /m/x; umount /m"),
            ("interfaces", "ip link set lo mtu 9000 && cat /sys/class/net/lo/mtu"),
            ("disks stay away", "mknod /b b 254 0; head -c 1 /b"),
        ],
    },
    Group {
        name: "limits",
        options: Options {
            ulimits: &[
                ("nofile", 100, 200),
                ("core", 0, 0),
                ("nproc", 300, 400),
                ("fsize", 4096, 8192),
            ],
            memory_mib: 64,
            ..PLAIN
        },
        probes: &[
            (
                "resources",
                "ulimit -Sn; ulimit -Hn; ulimit -c; ulimit -Su; ulimit -Hu; ulimit -Sf; ulimit -Hf",
            ),
            ("files too large", "head -c 9000 /dev/zero > /tmp/f; echo $?; stat -c %s /tmp/f"),
            (
                "too many open files",
                "i=3; while [ $i -lt 110 ]; do eval \"exec $i< /etc/passwd\" || break; i=$((i+1)); done; echo $i",
            ),
            ("memory", "cat /sys/fs/cgroup/memory.max"),
            (
                "child out of memory",
                "dd if=/dev/zero of=/dev/null bs=200M count=1; echo $?; grep oom_kill /sys/fs/cgroup/memory.events",
            ),
        ],
    },
];
