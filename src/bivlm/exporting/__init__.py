"""A model folder in another program's files: GGUF for llama.cpp.

folder ─ FolderWeights ─► EXPORTERS[model_type] ─► Plan (names, metadata) ─ write ─► model.gguf
                                                                                    mmproj.gguf
"""
