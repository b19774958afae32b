//! Containers that try to leave: the agent, the raw disks and the host are not theirs.

use std::process::Stdio;

use super::world::{World, eventually, finish, spawn, until};

/// F6: with every capability, no socket to the host, whatever way it is asked for; nodes of the disks and
/// of memory can be made, and not be used.
#[test]
fn sockets_to_the_host_and_raw_disks_are_of_no_use() {
    let script = "
import ctypes, errno, os, socket, stat
libc = ctypes.CDLL(None, use_errno=True)
def tried(what, *arguments):
    try: what(*arguments); return 'done'
    except OSError as e: return errno.errorcode[e.errno]
def called(*arguments):
    return 'done' if libc.syscall(*arguments) >= 0 else errno.errorcode[ctypes.get_errno()]
space = ctypes.create_string_buffer(256)
print(tried(socket.socket, socket.AF_VSOCK, socket.SOCK_STREAM))
print(called(41, 40, 1, 0), called(41, 40, 2, 0), called(41, ctypes.c_long(40 | 1 << 32), 1, 0))
print('others', called(53, 40, 1, 0, space), called(0x40000000 | 41, 40, 1, 0), called(425, 8, space))
for major in (254, 253, 252, 259, 8):
    for minor in (0, 1, 16):
        path = f'/tmp/b{major}-{minor}'
        os.mknod(path, 0o600 | stat.S_IFBLK, os.makedev(major, minor))
        print('disk', tried(os.open, path, os.O_RDONLY))
for minor in (1, 11):
    os.mknod(f'/tmp/m{minor}', 0o600 | stat.S_IFCHR, os.makedev(1, minor))
    print('memory', tried(os.open, f'/tmp/m{minor}', os.O_RDONLY))
print(sorted(name for name in os.listdir('/dev') if name.startswith('vd')))
";
    let world = World::new();
    let line =
        ["run", "--rm", "--network", "none", "--cap-add", "ALL", "python", "python3", "-c", script];
    let text = world.run(&line).success();
    assert!(!text.contains("done"), "{text}");
    assert_eq!(text.matches("EAFNOSUPPORT").count(), 5, "{text}");
    assert_eq!(text.matches("disk EPERM").count(), 15, "{text}");
    assert_eq!(text.matches("memory EPERM").count(), 2, "{text}");
    assert!(text.ends_with("[]\n"), "{text}");
}

/// F6: a container that may not mount sees no file system of the machine. One that may, as it was given
/// the right, sees devices that it cannot read, and on its disks its own files.
#[test]
fn mounted_devices_and_disks_are_of_no_use() {
    let script = "mkdir /d /m /c; mknod /tmp/a b 254 0
mount -t devtmpfs none /d && for n in vda vdb mem kmsg; do head -c 1 /d/$n && echo read $n; done
mount -t erofs -o ro /tmp/a /m && echo mounted; mount -t ext4 /d/vdb /m && ls /m
mount -t cgroup2 none /c && ls -d /c/container
ls -d /lower /upper /files /agent /init; echo end";
    let world = World::new();
    let run = |args: &[&str]| {
        let line = ["busybox", "sh", "-c", script];
        world.run(&[&["run", "--rm", "--network", "none"], args, &line].concat()).success()
    };
    assert_eq!(run(&[]), "end\n");
    let text = run(&["--cap-add", "ALL"]);
    assert!(!text.contains("read") && !text.contains("/c/container"), "{text}");
    assert!(!text.contains("agent") && text.ends_with("end\n"), "{text}");
}

/// F6: the agent is not among the processes that can be seen, and none of its files can be reached.
#[test]
fn agent_cannot_be_seen_or_reached() {
    let world = World::new();
    let script = "cat /proc/[0-9]*/comm; ls -l /proc/1/exe /proc/1/root | awk '{print $NF}'; ls /proc/1/root/
chroot / sh -c 'cd ../../../..; ls -d */'; cat /proc/1/mountinfo; ls /root";
    for args in [&[][..], &["--cap-add", "ALL"]] {
        let line = [&["run", "--rm", "--network", "none"], args, &["busybox", "sh", "-c", script]];
        let text = world.run(&line.concat()).success();
        for word in ["vmm-agent", "vmm", "/agent", "/lower ", "/upper ", "/cgroup/container"] {
            assert!(!text.contains(word), "{word} {args:?}: {text}");
        }
    }
}

/// F6: what `exec` brings into the container has nothing open that is not the container's.
#[test]
fn further_processes_bring_nothing_of_the_agent() {
    let world = World::new();
    world.start("one", "while :; do for p in /proc/[0-9]*; do readlink $p/exe $p/root $p/cwd; ls -l $p/fd; done > /tmp/seen.new 2>&1; cat /tmp/seen.new >> /tmp/seen; done");
    for _ in 0..5 {
        world.ok(&["exec", "one", "true"]);
    }
    // On a slow host one look at all processes takes longer than all of these do.
    let looked = || world.run(&["exec", "one", "test", "-e", "/tmp/seen"]).status == 0;
    eventually("it has looked", looked);
    let seen = world.ok(&["exec", "one", "cat", "/tmp/seen"]);
    for word in ["vsock", "socket:[", "/init", "vmm", "bpf"] {
        let lines: Vec<_> = seen.lines().filter(|line| line.contains(word)).collect();
        assert!(lines.is_empty(), "{word}: {lines:?}");
    }
}

/// A container that starts processes without end hurts itself only; it ends when it is told to.
#[test]
fn processes_without_end_do_not_keep_a_container_from_ending() {
    let world = World::new();
    world.start("one", "b() { b | b & }; b; b; sleep 1000");
    std::thread::sleep(std::time::Duration::from_secs(2));
    world.ok(&["kill", "one"]);
    assert_eq!(world.ok(&["wait", "one"]), "137");
    world.ok(&["rm", "one"]);
    world.wait_for_quiet();
}

/// F6: the control group with the container's limits and the filter of devices is not the one that it sees,
/// whatever name spaces it makes: what it changes is in vain. Only docker's capabilities are needed to try.
#[test]
fn limits_and_the_filter_of_devices_cannot_be_taken_away() {
    let script = "
import ctypes, errno, os, stat, struct
libc = ctypes.CDLL(None, use_errno=True)
def write(path, text):
    try:
        with open(path, 'w') as file: file.write(text)
        return 'done'
    except OSError as e: return errno.errorcode[e.errno]
os.mknod('/tmp/disk', 0o600 | stat.S_IFBLK, os.makedev(254, 0))
def disk():
    try: return os.close(os.open('/tmp/disk', os.O_RDONLY)) or 'opened'
    except OSError as e: return errno.errorcode[e.errno]
attribute = ctypes.create_string_buffer(struct.pack('IIII', os.open('/sys/fs/cgroup', os.O_RDONLY), 0, 6, 0), 64)
libc.syscall(321, 9, attribute, 64)
print('disk', disk())
NEWNS, NEWCGROUP, NEWUSER = 0x20000, 0x02000000, 0x10000000
if libc.unshare(NEWUSER | NEWNS | NEWCGROUP) == 0:
    for name, text in (('setgroups', 'deny'), ('uid_map', '0 0 1'), ('gid_map', '0 0 1')):
        write('/proc/self/' + name, text)
os.mkdir('/tmp/groups')
print('mounted', libc.mount(b'none', b'/tmp/groups', b'cgroup2', 0, None))
os.mkdir('/tmp/groups/below')
print('moved', write('/tmp/groups/below/cgroup.procs', '0'))
libc.unshare(NEWCGROUP)
for name in ('memory.max', 'pids.max'): write('/tmp/groups/' + name, 'max')
libc.syscall(321, 9, ctypes.create_string_buffer(struct.pack('IIII', os.open('/tmp/groups', os.O_RDONLY), 0, 6, 0), 64), 64)
print('disk', disk())
child = os.fork()
if child == 0:
    bytearray(112 << 20)
    os._exit(0)
print('ended', os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
";
    let world = World::new();
    for args in [&[][..], &["--cap-add", "ALL"]] {
        let line = [&["run", "--rm", "--network", "none", "-m", "100m"], args];
        let line = [&line.concat()[..], &["python", "python3", "-c", script]].concat();
        let text = world.run(&line).success();
        assert_eq!(text, "disk EPERM\nmounted 0\nmoved done\ndisk EPERM\nended -9\n", "{args:?}");
    }
}

/// F6: a container that may trace its processes never sees one of `exec` that has more rights than it will
/// have, or anything of the agent's.
#[test]
fn process_of_exec_appears_with_the_rights_of_its_program() {
    let script = "
import os
seen, last = set(), os.getpid()
print('ready', flush=True)
while not os.path.exists('/end'):
    for pid in (last + 1, last + 2):
        while True:
            try:
                lines = open(f'/proc/{pid}/status').read().splitlines()
                files = [os.readlink(f'/proc/{pid}/fd/{fd}') for fd in os.listdir(f'/proc/{pid}/fd')]
            except OSError: break
            last = max(last, pid)
            seen.add(' '.join(line for line in lines if line.startswith(('CapPrm', 'Seccomp:'))))
            seen.update(name for name in files if name.startswith('anon'))
print(sorted(seen))
";
    let world = World::new();
    let line = ["run", "--network", "none", "--name", "one", "--cap-add", "SYS_PTRACE"];
    let line = [&line[..], &["python", "python3", "-c", script]].concat();
    let mut client = spawn(&mut world.vmm(&line), Stdio::null());
    until(client.stdout.as_mut().expect("piped"), "ready\n");
    for _ in 0..5 {
        world.ok(&["exec", "one", "true"]);
    }
    world.ok(&["exec", "one", "touch", "/end"]);
    let said = finish(client).success();
    assert_eq!(said, "['CapPrm:\\t00000000a80c25fb Seccomp:\\t2']\n");
}
