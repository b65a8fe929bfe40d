//! The finished image of the micro guest.
