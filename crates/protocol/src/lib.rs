//! Frames between a virtual machine's host and the agent in its guest.
