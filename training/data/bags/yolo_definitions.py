"""The fields of yolo_msgs as of yolo_ros 4.6.1, for bags that hold no definitions."""

YOLO_MSGS = {
    "Point2D": "float64 x\nfloat64 y",
    "Vector2": "float64 x\nfloat64 y",
    "Pose2D": "Point2D position\nfloat64 theta",
    "BoundingBox2D": "Pose2D center\nVector2 size",
    "BoundingBox3D": "geometry_msgs/Pose center\ngeometry_msgs/Vector3 size\nstring frame_id",
    "Mask": "int32 height\nint32 width\nPoint2D[] data",
    "KeyPoint2D": "int32 id\nPoint2D point\nfloat64 score",
    "KeyPoint2DArray": "KeyPoint2D[] data",
    "KeyPoint3D": "int32 id\ngeometry_msgs/Point point\nfloat64 score",
    "KeyPoint3DArray": "string frame_id\nKeyPoint3D[] data",
    "Detection": "int32 class_id\nstring class_name\nfloat64 score\nstring id\nBoundingBox2D bbox\n"
                 "BoundingBox3D bbox3d\nMask mask\nKeyPoint2DArray keypoints\nKeyPoint3DArray keypoints3d",
    "DetectionArray": "std_msgs/Header header\nDetection[] detections",
}
