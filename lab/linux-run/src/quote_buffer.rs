//! The buffer that a TD shares with its VMM for quotes: in its header the VMM says what came of a request,
//! of which Linux passes on no more than an errno.
//!
//! Sources: GHCI specification, `TDG.VP.VMCALL<GetQuote>`; `struct tdx_quote_buf` in
//! drivers/virt/coco/tdx-guest/tdx-guest.c; `tdx_handle_get_quote()` in QEMU's target/i386/kvm/tdx.c.

use std::fs;
use std::time::Duration;

use tdxlab_journal::verdict::{Finding, Witness};
use tdxlab_linux::LinuxGuest;
use tdxlab_protocol::addr::Gpa;
use tdxlab_qemu::qmp::commands::pmemsave;

use crate::court::Court;

/// Longest that QEMU may take to read it.
const MONITOR: Duration = Duration::from_secs(10);

/// Bytes of the header.
const HEADER: usize = 24;

/// The only version that there is.
const VERSION: u64 = 1;

/// A status of GetQuote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Status(u64);

impl Status {
    /// The quote follows.
    pub(crate) const SUCCESS: Status = Status(0);
    /// The VMM is at work.
    const IN_FLIGHT: Status = Status(u64::MAX);
    /// There is no quote.
    pub(crate) const ERROR: Status = Status(1 << 63);
    /// Nobody makes quotes there.
    pub(crate) const SERVICE_UNAVAILABLE: Status = Status(1 << 63 | 1);

    /// Its name, and the number.
    fn text(self) -> String {
        let name = match self {
            Status::SUCCESS => "GET_QUOTE_SUCCESS",
            Status::IN_FLIGHT => "GET_QUOTE_IN_FLIGHT",
            Status::ERROR => "GET_QUOTE_ERROR",
            Status::SERVICE_UNAVAILABLE => "GET_QUOTE_SERVICE_UNAVAILABLE",
            _ => "a status that GHCI does not know",
        };
        format!("{name} ({:#x})", self.0)
    }
}

/// What the VMM wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    status: Status,
    /// Bytes of the TDREPORT.
    in_bytes: u32,
    /// Bytes of the quote.
    out_bytes: u32,
}

impl Header {
    fn parse(bytes: &[u8]) -> Result<Header, String> {
        let Some(bytes) = bytes.first_chunk::<HEADER>() else {
            return Err(format!("QEMU gave {} bytes of the buffer", bytes.len()));
        };
        let number = |at: usize, size: usize| {
            let digits = bytes[at..at + size].iter().rev();
            digits.fold(0, |number, &byte| number << 8 | u64::from(byte))
        };
        match number(0, 8) {
            VERSION => Ok(Header {
                status: Status(number(8, 8)),
                in_bytes: number(16, 4) as u32,
                out_bytes: number(20, 4) as u32,
            }),
            other => Err(format!("no buffer for quotes: it is of version {other}")),
        }
    }

    fn text(self) -> String {
        format!(
            "{}, {} bytes in, {} bytes out",
            self.status.text(),
            self.in_bytes,
            self.out_bytes
        )
    }
}

/// A line of the guest's kernel, with the name of the TDVMCALL status in it. Source: GHCI specification,
/// completion status codes.
pub(crate) fn with_name(line: &str) -> String {
    let number = line.rsplit_once("status:").map(|(_, number)| number.trim());
    let number = number.and_then(|number| {
        let digits = number.trim_start_matches("0x");
        u64::from_str_radix(digits, 16).ok()
    });
    let name = match number {
        Some(1) => "TDVMCALL_RETRY",
        Some(0x8000_0000_0000_0000) => "TDVMCALL_INVALID_OPERAND",
        Some(0x8000_0000_0000_0001) => "TDVMCALL_GPA_INUSE",
        Some(0x8000_0000_0000_0002) => "TDVMCALL_ALIGN_ERROR",
        Some(0x8000_0000_0000_0003) => "TDVMCALL_SUBFUNC_UNSUPPORTED",
        _ => return line.to_owned(),
    };
    format!("{line} ({name})")
}

/// What must hold, in words.
pub(crate) fn text(wanted: Status) -> String {
    format!(
        "exactly, where the buffer is found: {} from the VMM",
        wanted.text()
    )
}

/// Reads the header, through QEMU: what is shared is in its memory.
pub(crate) fn read(guest: &mut LinuxGuest, at: Gpa) -> Result<Header, String> {
    let file = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
    let filename = file
        .path()
        .to_str()
        .ok_or("the folder for temporary files is not UTF-8")?;
    let save = pmemsave {
        val: at.as_u64(),
        size: HEADER as u64,
        filename: filename.to_owned(),
    };
    let saved = guest.qmp().execute(&save, MONITOR);
    saved.map_err(|error| format!("QEMU does not read the buffer: {error}"))?;
    let bytes = fs::read(file.path()).map_err(|error| error.to_string())?;
    Header::parse(&bytes)
}

/// Judges what the VMM wrote: this status, and so many bytes of a quote.
pub(crate) fn judge(
    court: &mut Court,
    wanted: Status,
    bytes: usize,
    header: Result<Header, String>,
) {
    let header = match header {
        Ok(header) => header,
        Err(why) => return court.miss(Witness::QuoteBuffer, &why),
    };
    court.hear(Witness::QuoteBuffer);
    court.show(format!("the VMM wrote {}", header.text()));
    if header.status != wanted || header.out_bytes as usize != bytes {
        let expected = format!("{}, {bytes} bytes out", wanted.text());
        court.find(Finding::wrong(
            Witness::QuoteBuffer,
            expected,
            header.text(),
        ));
    }
}

#[cfg(test)]
mod tests {
    use tdxlab_journal::verdict::Verdict;

    use super::*;

    fn bytes(version: u64, status: u64, out: u32) -> Vec<u8> {
        let mut bytes = version.to_le_bytes().to_vec();
        bytes.extend(status.to_le_bytes());
        bytes.extend(1024_u32.to_le_bytes());
        bytes.extend(out.to_le_bytes());
        bytes
    }

    fn judged(wanted: Status, bytes: usize, header: Result<Header, String>) -> (Verdict, String) {
        let mut court = Court::default();
        court.hear(Witness::Agent);
        judge(&mut court, wanted, bytes, header);
        let (judgement, seen) = court.finish();
        let missing = judgement.missing.iter().map(|one| one.reason.clone());
        let found = judgement.findings.iter().map(ToString::to_string);
        let all: Vec<String> = found.chain(missing).chain(seen).collect();
        (judgement.verdict, all.join("\n"))
    }

    #[test]
    fn the_verdict_names_what_the_vmm_wrote() {
        let header = |status, out| Header::parse(&bytes(1, status, out));
        for (status, out) in [
            (Status::SUCCESS, 6000),
            (Status::ERROR, 0),
            (Status::SERVICE_UNAVAILABLE, 0),
        ] {
            let (verdict, said) = judged(status, out, header(status.0, out as u32));
            assert_eq!(verdict, Verdict::Pass, "{said}");
        }
        for (status, says) in [
            (
                Status::ERROR,
                "found GET_QUOTE_ERROR (0x8000000000000000), 1024 bytes in, 0 bytes out",
            ),
            (
                Status::SERVICE_UNAVAILABLE,
                "found GET_QUOTE_SERVICE_UNAVAILABLE (0x8000000000000001)",
            ),
            (
                Status::IN_FLIGHT,
                "found GET_QUOTE_IN_FLIGHT (0xffffffffffffffff)",
            ),
            (
                Status::SUCCESS,
                "found GET_QUOTE_SUCCESS (0x0), 1024 bytes in, 0 bytes out",
            ),
            (Status(7), "a status that GHCI does not know (0x7)"),
        ] {
            let (verdict, said) = judged(Status::SUCCESS, 6000, header(status.0, 0));
            assert_eq!(verdict, Verdict::Fail, "{said}");
            assert!(said.contains(says), "{said}");
        }
    }

    #[test]
    fn what_is_no_header_is_missing_and_no_verdict() {
        for (bytes, says) in [(bytes(0, 0, 0), "version 0"), (vec![1; 8], "8 bytes")] {
            let (verdict, said) = judged(Status::SERVICE_UNAVAILABLE, 0, Header::parse(&bytes));
            assert_eq!(verdict, Verdict::Pass);
            assert!(said.contains(says), "{said}");
        }
    }

    #[test]
    fn the_guests_own_words_are_shown_with_the_name_of_the_status() {
        let line = "tdx_guest: GetQuote hypercall failed, status:8000000000000003";
        assert_eq!(
            with_name(line),
            format!("{line} (TDVMCALL_SUBFUNC_UNSUPPORTED)")
        );
        let other = "tdx_guest: GetQuote request timedout";
        assert_eq!(with_name(other), other);
    }
}
