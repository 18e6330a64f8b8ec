"""Turns yolo_msgs/DetectionArray on `yolo` into vision_msgs/Detection2DArray on `detections`."""
from contextlib import suppress

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose
from yolo_msgs.msg import DetectionArray


class Converter(Node):
    """Keeps headers, boxes, scores, class names and a tracker's ids."""

    def __init__(self) -> None:
        super().__init__("yolo_to_vision_msgs")
        self._publisher = self.create_publisher(Detection2DArray, "detections", 10)
        self.create_subscription(DetectionArray, "yolo", self._convert, 10)

    def _convert(self, message: DetectionArray) -> None:
        converted = Detection2DArray(header=message.header)
        for found in message.detections:
            detection = Detection2D(header=message.header, id=found.id)
            detection.bbox.center.position.x = found.bbox.center.position.x
            detection.bbox.center.position.y = found.bbox.center.position.y
            detection.bbox.center.theta = found.bbox.center.theta
            detection.bbox.size_x, detection.bbox.size_y = found.bbox.size.x, found.bbox.size.y
            hypothesis = ObjectHypothesisWithPose()
            hypothesis.hypothesis.class_id, hypothesis.hypothesis.score = found.class_name, found.score
            detection.results.append(hypothesis)
            converted.detections.append(detection)
        self._publisher.publish(converted)


rclpy.init()
with suppress(KeyboardInterrupt, ExternalShutdownException):
    rclpy.spin(Converter())
