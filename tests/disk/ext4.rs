//! An ext4 file system in a file, whose power can be cut.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// Shuts the file system of a folder down without writing its journal or anything else that waits: the ioctl
/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`.
const CUT: &str = r#"
    open(my $dir, "<", $ARGV[0]) or die "open: $!";
    my $flags = pack("L", 2);
    ioctl($dir, 0x8004587D, $flags) or die "ioctl: $!";
"#;

/// A mounted image. Unmounted and removed when dropped: drop the nodes that use it first.
pub struct Ext4 {
    folder: TempDir,
}

impl Ext4 {
    /// Makes and mounts a file system of this size.
    pub fn mount_new(size_bytes: u64) -> Self {
        let folder = TempDir::with_prefix_in("disk-", env!("CARGO_TARGET_TMPDIR")).unwrap();
        let disk = Self { folder };
        File::create(disk.image()).unwrap().set_len(size_bytes).unwrap();
        run("mkfs.ext4", &["-q".as_ref(), &disk.image()]);
        fs::create_dir(disk.path()).unwrap();
        disk.mount();
        disk
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    pub fn mount(&self) {
        run("mount", &["-o".as_ref(), "loop".as_ref(), &self.image(), &self.path()]);
    }

    pub fn unmount(&self) {
        run("umount", &[&self.path()]);
    }

    /// The power fails: what is not yet on the disk is lost, and every access fails until it is mounted again.
    pub fn cut_power(&self) {
        run("perl", &["-e".as_ref(), CUT.as_ref(), &self.path()]);
    }
}

impl Drop for Ext4 {
    fn drop(&mut self) {
        // Lazily, so that nothing is left even if something still uses it; the loop device goes with it.
        let _ = Command::new("umount").arg("-l").arg(self.path()).stderr(Stdio::null()).status();
    }
}

fn run(program: &str, arguments: &[&Path]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {complaint}");
}
