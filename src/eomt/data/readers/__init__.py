"""One module for each layout of files that people have, and what several of them share.

Of the layouts: ade20k, cityscapes, coco, coco_panoptic, cvat, folder, instance_folder, label_studio, labelme,
saved_dataset, voc, yolo. Shared: coco_json (COCO's files, entry by entry), mask_code (what numbers and colours of
masks mean), shapes (what annotation tools draw). `data.reader` is the contract, `data.detect` the table.
"""
