"""Conversion of manifest files to clips.

`reading` yields blocks of rows with the line each row is in (`csv_files`, `json_lines`, `parquet_files`). `columns`
checks their values and converts them to Arrow columns; only unusual values are converted one by one (`values`).
`paths` resolves paths and finds missing files, and `grouping` makes one clip of the rows of the same segment.
"""
