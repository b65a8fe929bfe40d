//! Protocol and layouts shared by the guests and the lab.
//!
//! `no_std`, without allocation, so that the same code runs in the guest and on the host.
//!
//! | module | holds |
//! |---|---|
//! | [`addr`] | guest-physical addresses, ranges and page levels |
//! | [`message`] | requests of the lab on the serial port, and answers of the micro guest |
//! | [`linux`] | requests of the lab to the agent in a Linux guest, and its answers |
//! | [`frame`] | framing of those messages, with resynchronisation |
//! | [`codec`] | encoding of a frame |
//! | [`generation`] | numbers of fills |
//! | [`pattern`] | the words with which a guest fills memory, each naming its address |
//! | [`runs`] | run-length coding of results |
//! | [`layout`] | layout of the guest's own memory and address space |
//! | [`mailbox`] | how TDCALLs and window faults reach the soft host |
//! | [`tdcall`] | leaf numbers, status codes and register order of the TDX ABI |
//! | [`tdvf`] | the metadata by which a VMM loads an image as a TD |

#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod addr;
pub mod codec;
pub mod frame;
pub mod generation;
pub mod layout;
pub mod linux;
pub mod mailbox;
pub mod message;
pub mod pattern;
pub mod runs;
pub mod tdcall;
pub mod tdvf;
