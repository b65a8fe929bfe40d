//! Serves requests in sequence.

use std::collections::BTreeMap;
use std::fs;

use nix::time::{ClockId, clock_gettime};
use tdxlab_protocol::frame::FrameError;
use tdxlab_protocol::linux::{
    Ask, BufferId, Failure, LinuxHello, LinuxReply, LinuxRequest, Load, Outcome, VERSION,
};

use crate::buffer::Buffer;
use crate::failure::{Doing, refuse};
use crate::fatal::{power_off, text};
use crate::line::Line;
use crate::load::Fragments;
use crate::role::{Role, role};
use crate::{boot, file, kexec, load, pages, td, witness};

/// State of the agent between requests.
struct Agent {
    line: Line,
    buffers: BTreeMap<BufferId, Buffer>,
    fragments: Option<Fragments>,
}

/// Serves the lab for as long as the guest lives.
pub(crate) fn serve(line: Line) -> ! {
    let mut agent = Agent {
        line,
        buffers: BTreeMap::new(),
        fragments: None,
    };
    agent.line.send(&LinuxReply::Hello(hello()));
    loop {
        match agent.line.receive() {
            Ok(LinuxRequest { id, ask }) => agent.answer(id, ask),
            Err(FrameError::Cobs | FrameError::Length { .. }) => {
                // Bytes before the first whole frame, or a damaged frame: the lab expects no answer
                // to the former, and gets an error for the latter.
                agent.failed(0, refuse("a request came damaged"));
            }
            Err(error) => agent.failed(0, refuse(&error.to_string())),
        }
    }
}

fn hello() -> LinuxHello {
    let since_boot = clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map_or(0, |time| time.tv_sec() * 1000 + time.tv_nsec() / 1_000_000);
    let command_line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    LinuxHello {
        version: VERSION,
        td: td::is_td(),
        vcpus: boot::cpus(),
        release: text(&boot::release().unwrap_or_default()),
        uptime_ms: u32::try_from(since_boot).unwrap_or(u32::MAX),
        kexec: command_line
            .split_whitespace()
            .any(|word| word == kexec::MARK),
        converts: pages::available(),
    }
}

impl Agent {
    fn answer(&mut self, id: u32, ask: Ask) {
        match self.perform(id, ask) {
            Ok(outcome) => self.line.send(&LinuxReply::Done { id, outcome }),
            Err(failure) => self.failed(id, failure),
        }
    }

    fn failed(&mut self, id: u32, failure: Failure) {
        self.line.send(&LinuxReply::Failed { id, failure });
    }

    fn buffer(&mut self, id: BufferId) -> Result<&mut Buffer, Failure> {
        let buffer = self.buffers.get_mut(&id);
        buffer.ok_or_else(|| refuse(&format!("there is no buffer {}", id.get())))
    }

    fn perform(&mut self, id: u32, ask: Ask) -> Result<Outcome, Failure> {
        if role() == Role::Pushed && matches!(ask, Ask::Kexec { .. } | Ask::PowerOff) {
            return Err(refuse("that is up to the system that the agent runs on"));
        }
        match ask {
            Ask::Hello => {
                self.line.send(&LinuxReply::Hello(hello()));
                Ok(Outcome::Done)
            }
            Ask::Fill {
                buffer: which,
                bytes,
                pages,
                generation,
            } => {
                let mut buffer = match self.buffers.remove(&which) {
                    Some(buffer) if buffer.is(bytes, pages) => buffer,
                    // The existing buffer is of another size or kind, and stays until it is freed.
                    Some(other) => {
                        self.buffers.insert(which, other);
                        let what = format!("buffer {} is of another size or kind", which.get());
                        return Err(refuse(&what));
                    }
                    None => Buffer::new(bytes, pages)?,
                };
                let line = &mut self.line;
                let filled = buffer.fill(generation, |bytes| line.progress(id, bytes));
                let buffer = self.buffers.entry(which).or_insert(buffer);
                let huge = filled?;
                buffer.send_extents(id, &mut self.line)?;
                Ok(Outcome::Filled { bytes, huge })
            }
            Ask::Where { buffer } => {
                let line = &mut self.line;
                let buffer = self
                    .buffers
                    .get(&buffer)
                    .ok_or_else(|| refuse("no such buffer"))?;
                buffer.send_extents(id, line)?;
                Ok(Outcome::Done)
            }
            Ask::Verify { buffer } => {
                let line = &mut self.line;
                let buffer = self
                    .buffers
                    .get(&buffer)
                    .ok_or_else(|| refuse("no such buffer"))?;
                buffer.verify(id, line)
            }
            Ask::Free { buffer } => {
                self.buffer(buffer)?;
                self.buffers.remove(&buffer);
                Ok(Outcome::Done)
            }
            Ask::Convert {
                buffer,
                first,
                count,
                to,
            } => {
                self.buffer(buffer)?.convert(first, count, to)?;
                Ok(Outcome::Done)
            }
            Ask::Load(Load::Fragment { bytes }) => {
                if self.fragments.is_some() {
                    return Err(refuse("fragments are held already"));
                }
                let line = &mut self.line;
                self.fragments = Some(Fragments::make(bytes, |bytes| line.progress(id, bytes))?);
                Ok(Outcome::Loaded { bytes, failed: 0 })
            }
            Ask::Load(Load::Release) => {
                self.fragments = None;
                Ok(Outcome::Done)
            }
            Ask::Load(Load::Touch { bytes, processes }) => {
                let line = &mut self.line;
                load::touch(bytes, processes, |bytes| line.progress(id, bytes))
            }
            Ask::Load(Load::Fork { bytes, processes }) => {
                let line = &mut self.line;
                load::fork(bytes, processes, |bytes| line.progress(id, bytes))
            }
            Ask::Read(which) => witness::send(id, which, &mut self.line),
            Ask::ReadFile { path, most } => file::send(id, &path, most, &mut self.line),
            Ask::Report { data } => {
                let report = td::report(data.as_flattened())?;
                witness::send_bytes(id, &report, usize::MAX, &mut self.line)
            }
            Ask::Quote { data } => {
                let quote = td::quote(data.as_flattened())?;
                witness::send_bytes(id, &quote, usize::MAX, &mut self.line)
            }
            Ask::Kexec { append } => {
                kexec::load(&append)?;
                self.line.send(&LinuxReply::Done {
                    id,
                    outcome: Outcome::Done,
                });
                // Data in flight is lost with this kernel: any further request of the lab shows
                // that the answer has arrived.
                let _arrived = self.line.receive();
                kexec::jump()
                    .doing("starting the loaded kernel")
                    .map(|never| match never {})
            }
            Ask::PowerOff => {
                self.buffers.clear();
                self.fragments = None;
                self.line.send(&LinuxReply::Done {
                    id,
                    outcome: Outcome::Done,
                });
                power_off()
            }
        }
    }
}
