//! The EtherPly server. The binary is a thin shell around these modules.

pub mod storage;
