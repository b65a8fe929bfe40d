//! What the guests and the lab agree on.
//!
//! `no_std`, without allocation, so that the very same code runs in the guest and on the host.
//!
//! | module | what is agreed |
//! |---|---|
//! | [`addr`] | guest-physical addresses, ranges and page levels |
//! | [`message`] | what the lab asks on the serial port and what the micro guest answers |
//! | [`linux`] | what the lab asks of the agent in a Linux guest and what it answers |
//! | [`frame`] | how those messages travel, and how a receiver survives garbage |
//! | [`codec`] | how bytes travel in a frame, whatever they mean |
//! | [`generation`] | which fill wrote a page |
//! | [`pattern`] | the words with which a guest fills memory, so that a bad word says whose it is |
//! | [`runs`] | run-length coding of results |
//! | [`layout`] | where things live in the guest's own memory and address space |
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
