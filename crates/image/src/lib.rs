//! Container images: references, the store, where images come from, and the read-only root file system
//! that is made from an image's layers.
