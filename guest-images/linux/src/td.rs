//! Features of TDs only: TDREPORT and quote.

use std::arch::x86_64::__cpuid_count;
use std::fs::{self, File};
use std::path::Path;
use std::sync::OnceLock;

use nix::errno::Errno;
use std::os::fd::AsRawFd;
use tdxlab_protocol::linux::{Failure, REPORT_BYTES, REPORT_DATA, REPORT_MODULES};

use crate::boot;
use crate::failure::{Doing, refuse};

/// The CPUID leaf in which the TDX module names itself.
const TDX_LEAF: u32 = 0x21;

/// `struct tdx_report_req` of include/uapi/linux/tdx-guest.h.
#[repr(C)]
struct ReportRequest {
    data: [u8; REPORT_DATA],
    report: [u8; REPORT_BYTES],
}

nix::ioctl_readwrite!(get_report, b'T', 1, ReportRequest);

/// Whether this is a TD.
pub(crate) fn is_td() -> bool {
    if __cpuid_count(0, 0).eax < TDX_LEAF {
        return false;
    }
    let leaf = __cpuid_count(TDX_LEAF, 0);
    let name = [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes);
    name.as_flattened() == b"IntelTDX    "
}

/// Loads the driver where the image leaves that to the first request.
fn load_driver() -> Result<(), Failure> {
    static FAILED: OnceLock<String> = OnceLock::new();
    let failed = FAILED.get_or_init(|| {
        let failed = boot::load_modules(REPORT_MODULES);
        // One of them may be configfs.
        boot::mount_configfs();
        failed
    });
    match failed.is_empty() {
        true => Ok(()),
        false => Err(refuse(&format!("loading the driver{failed}"))),
    }
}

/// A TDREPORT over `data`.
pub(crate) fn report(data: &[u8]) -> Result<Vec<u8>, Failure> {
    const DEVICE: &str = "/dev/tdx_guest";
    load_driver()?;
    let device = File::options()
        .read(true)
        .write(true)
        .open(DEVICE)
        .doing(DEVICE)?;
    let mut request = ReportRequest {
        data: data.try_into().expect("report data has its size"),
        report: [0; REPORT_BYTES],
    };
    // SAFETY: the request has the layout that the kernel reads and writes.
    unsafe { get_report(device.as_raw_fd(), &mut request) }.doing("TDX_CMD_GET_REPORT0")?;
    Ok(request.report.to_vec())
}

/// A quote over `data`, through configfs-tsm.
/// Source: Documentation/ABI/testing/configfs-tsm-report.
pub(crate) fn quote(data: &[u8]) -> Result<Vec<u8>, Failure> {
    load_driver()?;
    let entry = Path::new("/sys/kernel/config/tsm/report/tdxlab");
    match fs::create_dir(entry) {
        Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => {
            return Err(refuse(
                "this kernel offers no quotes (/sys/kernel/config/tsm)",
            ));
        }
        made => made.doing("making a quote request")?,
    }
    let quote = fs::write(entry.join("inblob"), data)
        .doing("writing the quote request")
        .and_then(|()| fs::read(entry.join("outblob")).doing("reading the quote"));
    let removed = fs::remove_dir(entry).doing("removing the quote request");
    let quote = quote?;
    removed?;
    Ok(quote)
}
