//! The conversation with the lab, on the boot processor.

use tdxlab_protocol::addr::{Gpa, GpaRange};
use tdxlab_protocol::frame::Decoder;
use tdxlab_protocol::layout::EXIT_PORT;
use tdxlab_protocol::message::{Hello, Refusal, Reply, Request, Task, VERSION, Windows};

use crate::{command, console, fatal, port, serial, smp, td, window};

/// Sends the hello, then serves the lab's requests.
pub(crate) fn serve(hello: Hello, end_of_memory: Option<u64>) -> ! {
    let guest = Guest {
        vcpus: hello.vcpus,
        end_of_memory,
    };
    serial::send(&Reply::Hello(hello));
    console::say(format_args!("said hello"));
    smp::open(guest.vcpus);
    let mut decoder = Decoder::<Request>::new();
    loop {
        let answer = match decoder.push(serial::receive()) {
            None => continue,
            Some(Ok(request)) => guest.answer(&request),
            Some(Err(_)) => Err(Refusal::Garbled),
        };
        if let Err(reason) = answer {
            serial::send(&Reply::Refused { reason });
        }
    }
}

/// What requests are checked against.
struct Guest {
    vcpus: u16,
    /// First address after all memory, if the VMM reports it.
    end_of_memory: Option<u64>,
}

impl Guest {
    fn answer(&self, request: &Request) -> Result<(), Refusal> {
        match request {
            Request::Configure { version, windows } => {
                if *version != VERSION {
                    return Err(Refusal::Version {
                        guest: VERSION,
                        lab: *version,
                    });
                }
                self.check_windows(windows)?;
                window::map(*windows);
                console::say(format_args!("windows are mapped"));
                smp::wait_for_all(self.vcpus);
                console::say(format_args!("all vCPUs are up"));
                serial::send(&Reply::Ready { vcpus: self.vcpus });
            }
            Request::Run { id, tasks } => {
                self.check_tasks(tasks)?;
                smp::start(*id, tasks);
            }
            Request::PowerOff { code } => {
                port::write(EXIT_PORT, *code);
                fatal::halt();
            }
        }
        Ok(())
    }

    fn check_windows(&self, windows: &Windows) -> Result<(), Refusal> {
        let Windows::Direct { limit } = *windows else {
            return match td::is_td() {
                true => Err(Refusal::NoHost),
                false => Ok(()),
            };
        };
        let most = window::DIRECT_BYTES.min(self.end_of_memory.unwrap_or(u64::MAX));
        match GpaRange::new(Gpa::new(most), limit) {
            Some(beyond) if !beyond.is_empty() => Err(Refusal::BadRange(beyond)),
            _ => Ok(()),
        }
    }

    fn check_tasks(&self, tasks: &[Task]) -> Result<(), Refusal> {
        if !window::are_mapped() {
            return Err(Refusal::NotConfigured);
        }
        for (number, task) in tasks.iter().enumerate() {
            if task.vcpu.0 >= self.vcpus {
                return Err(Refusal::NoSuchVcpu(task.vcpu));
            }
            if tasks[..number].iter().any(|other| other.vcpu == task.vcpu) {
                return Err(Refusal::VcpuTwice(task.vcpu));
            }
            command::check(task)?;
        }
        Ok(())
    }
}
