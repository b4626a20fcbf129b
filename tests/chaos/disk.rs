//! A small file system for each node, so that it can be filled up without harm to anybody else.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use crate::shell;

/// What a node's disk holds: the least room that a node demands is 64 MiB.
const DISK_BYTES: u64 = 256 << 20;
/// How long processes that were killed may hold the disk.
const GONE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);
/// The file that takes up room.
const BALLAST: &str = "ballast";

/// Shuts the file system of a folder down without writing its journal or anything else that waits: the ioctl
/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`.
const CUT: &str = r#"
    open(my $dir, "<", $ARGV[0]) or die "open: $!";
    my $flags = pack("L", 2);
    ioctl($dir, 0x8004587D, $flags) or die "ioctl: $!";
"#;

/// A mounted disk. Unmounted when dropped: end the node that uses it first.
pub struct Disk {
    mounted: PathBuf,
    /// The loop device that it is on; none for one in memory. It stays through power cuts: one that `mount` makes is taken down
    /// behind the scenes, and who mounts again at once may get it while it goes.
    device: Option<String>,
}

impl Disk {
    /// Makes and mounts one in this folder: ext4 in a file, or in memory where there are no loop devices.
    pub fn mount_new(folder: &Path, node: usize) -> Result<Self, String> {
        let (image, mounted) = (folder.join(format!("disk-{node}.image")), folder.join(format!("disk-{node}")));
        fs::create_dir_all(&mounted).map_err(|error| format!("{}: {error}", mounted.display()))?;
        let sized = File::create(&image).and_then(|file| file.set_len(DISK_BYTES));
        sized.map_err(|error| format!("{}: {error}", image.display()))?;
        shell::run("mkfs.ext4", &["-q".as_ref(), image.as_os_str()])?;
        let device = shell::run("losetup", &["--find".as_ref(), "--show".as_ref(), image.as_os_str()]);
        let disk = Self { mounted, device: device.as_ref().ok().map(|device| device.trim().to_owned()) };
        if let Err(error) = device {
            println!("node {node} has its disk in memory: {error}");
        }
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&self) -> Result<(), String> {
        let size = format!("size={DISK_BYTES}");
        let words: &[&str] = match &self.device {
            Some(device) => &[device],
            None => &["-t", "tmpfs", "-o", &size, "tmpfs"],
        };
        let words: Vec<_> = words.iter().map(std::ffi::OsStr::new).chain([self.mounted.as_os_str()]).collect();
        shell::run("mount", &words).map(drop)
    }

    /// Whether its power can be cut: that of memory cannot.
    pub fn has_power(&self) -> bool {
        self.device.is_some()
    }

    /// The power fails: what is not yet on the disk is lost, and every access fails until it is mounted again.
    pub fn cut_power(&self) -> Result<(), String> {
        shell::run("perl", &["-e".as_ref(), CUT.as_ref(), self.mounted.as_os_str()]).map(drop)
    }

    /// The power is back. Nothing may use the disk, but what used it may take a moment to be gone.
    pub async fn mount_again(&self) -> Result<(), String> {
        let deadline = tokio::time::Instant::now() + GONE;
        while let Err(error) = shell::run("umount", &[&self.mounted]) {
            if tokio::time::Instant::now() >= deadline {
                return Err(error);
            }
            tokio::time::sleep(POLL).await;
        }
        self.mount()
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mounted
    }

    /// Takes all room but so many bytes.
    pub fn fill(&self, left_bytes: u64) -> Result<(), String> {
        let describe = |error: &dyn std::error::Error| format!("cannot fill {}: {error}", self.mounted.display());
        let file = File::create(self.mounted.join(BALLAST)).map_err(|error| describe(&error))?;
        let room = statvfs(&self.mounted).map_err(|error| describe(&error))?;
        let taken = (room.f_bavail * room.f_frsize).saturating_sub(left_bytes);
        fallocate(&file, FallocateFlags::empty(), 0, taken.max(1)).map_err(|error| describe(&error))
    }

    /// Whether its room is taken.
    pub fn is_filled(&self) -> bool {
        self.mounted.join(BALLAST).exists()
    }

    /// Gives the room back, for good: the power may fail next.
    pub fn empty(&self) -> Result<(), String> {
        let ballast = self.mounted.join(BALLAST);
        let removed = fs::remove_file(&ballast).and_then(|()| File::open(&self.mounted)?.sync_all());
        removed.map_err(|error| format!("{}: {error}", ballast.display()))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let detached = self.device.iter().map(|device| detach(device));
        for error in [unmount(&self.mounted)].into_iter().chain(detached).filter_map(Result::err) {
            eprintln!("a disk is left: {error}");
        }
    }
}

/// Takes down what runs that are over have left in this folder.
pub fn remove_leftovers(folder: &Path) -> Result<(), String> {
    let mounts = fs::read_to_string("/proc/mounts").map_err(|error| format!("/proc/mounts: {error}"))?;
    let places = mounts.lines().filter_map(|line| line.split_whitespace().nth(1)).map(Path::new);
    places.filter(|place| place.starts_with(folder)).try_for_each(unmount)?;
    let devices = shell::run("losetup", &["--list", "--noheadings", "--output", "NAME,BACK-FILE"])?;
    let attached = devices.lines().filter_map(|line| line.split_once(char::is_whitespace));
    let mut of_folder = attached.filter(|(_, file)| Path::new(file.trim()).starts_with(folder));
    of_folder.try_for_each(|(device, _)| detach(device))
}

fn detach(device: &str) -> Result<(), String> {
    shell::run("losetup", &["--detach", device]).map(drop)
}

/// Lazily, in case something still looks at it.
fn unmount(place: &Path) -> Result<(), String> {
    shell::run("umount", &["-l".as_ref(), place]).map(drop)
}
