"""FuxiCTR's LongCTR models as experiments: ``model: LongCTR/DIN``, and nine others."""
